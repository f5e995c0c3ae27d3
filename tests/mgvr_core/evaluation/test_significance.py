"""Letters that say which systems a set of queries tells apart."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.significance import group_letters, holm, letters, paired_p_values


def hits(*rows):
    return {f"s{number}": np.array(row, float) for number, row in enumerate(rows)}


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_with_a_query_a_video_it_is_the_exact_test_of_mcnemar(pairs):
    one, other = np.array(pairs, float).T
    won, lost = int(((one == 1) & (other == 0)).sum()), int(((one == 0) & (other == 1)).sum())
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0

    assert paired_p_values({"a": one, "b": other})["a", "b"] == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=20))
def test_with_several_queries_a_video_whole_videos_change_sign(queries):
    one, other, video = np.array(queries, float).T
    difference = np.array([(one - other)[video == name].sum() for name in np.unique(video)])
    sums = [abs((difference * signs).sum()) for signs in product((1, -1), repeat=len(difference))]
    expected = np.mean([total >= abs(difference.sum()) for total in sums])

    found = paired_p_values({"a": one, "b": other}, groups=video.tolist())["a", "b"]

    assert found == pytest.approx(expected, abs=1e-12)


def test_queries_of_one_video_count_once():
    """Ten captions of one video are one piece of evidence, not ten."""
    rows = hits([1] * 10, [0] * 10)

    assert paired_p_values(rows)["s0", "s1"] < 0.01
    assert paired_p_values(rows, groups=["v"] * 10)["s0", "s1"] == pytest.approx(1.0)


def test_holm_by_hand():
    assert holm({("a", "b"): 0.01, ("a", "c"): 0.04, ("b", "c"): 0.03}) == pytest.approx(
        {("a", "b"): 0.03, ("b", "c"): 0.06, ("a", "c"): 0.06}
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_two_share_a_letter_if_and_only_if_they_are_alike(drawn):
    size, edges = drawn
    names = [str(number) for number in range(size)]
    alike = {name: {name} for name in names}
    for one, other in edges:
        alike[names[one]].add(names[other])
        alike[names[other]].add(names[one])

    found = letters(names, alike)

    assert all(found.values())
    for one, other in combinations(names, 2):
        assert bool(set(found[one]) & set(found[other])) == (other in alike[one])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 7))
def test_letters_follow_the_adjusted_tests_of_all_pairs(seed, systems):
    generator = np.random.default_rng(seed)
    rates = generator.uniform(0.1, 0.9, size=systems)
    rows = hits(*(generator.random((systems, 80)) < rates[:, None]))
    found, tests = group_letters(rows), holm(paired_p_values(rows))

    for (one, other), p_value in tests.items():
        assert bool(set(found[one]) & set(found[other])) == (p_value >= 0.05)
    assert "a" in found[max(rows, key=lambda name: rows[name].sum())]


def test_forty_systems_can_be_told_apart():
    """The correction for 780 pairs leaves room: p-values are exact, not as coarse as a number of resamples."""
    generator = np.random.default_rng(0)
    rows = hits(*(generator.random((40, 1000)) < np.where(np.arange(40) < 20, 0.3, 0.6)[:, None]))

    found = group_letters(rows)

    worse, better = (set("".join(found[f"s{number}"] for number in half)) for half in (range(20), range(20, 40)))
    assert not worse & better


def test_other_queries_or_no_hits_are_refused():
    with pytest.raises(MgvrError, match=r"\[2, 3\] queries"):
        group_letters(hits([1, 0], [1, 0, 1]))
    with pytest.raises(MgvrError, match="'s1'"):
        group_letters(hits([1, 0], [0.5, 0]))
