"""One rank per query, whatever ties, however many right answers, and nothing dropped."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.metrics import (
    MISSING,
    Positions,
    concatenate,
    ndcg_at,
    per_query,
    positions_from_scores,
    ranks,
    recall_at,
    summarise,
)


@st.composite
def judged(draw):
    """A few queries over a small pool, with many ties, several right answers and some of them missing."""
    queries, pool = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    row = st.lists(st.integers(0, 3), min_size=pool, max_size=pool)
    scores = np.array(draw(st.lists(row, min_size=queries, max_size=queries)), dtype=np.float32)
    item = st.integers(MISSING, pool - 1)
    relevant = draw(st.lists(st.lists(item, min_size=1, max_size=4), min_size=queries, max_size=queries))
    return scores, relevant


def test_a_hundred_tied_queries_give_a_hundred_ranks():
    rank = ranks(positions_from_scores(np.zeros((100, 100)), [[i] for i in range(100)]))

    assert rank.mid.shape == (100,)
    assert np.all(rank.mid == 50.5)
    assert np.all(rank.best == 1)
    assert np.all(rank.worst == 100)


def test_right_answers_do_not_stand_in_each_others_way():
    scores = np.array([[0.9, 0.9, 0.9, 0.5]])

    rank = ranks(positions_from_scores(scores, [[0, 1]]))

    assert (rank.best[0], rank.mid[0], rank.worst[0]) == (1, 1.5, 2)


@pytest.mark.parametrize("bad", [np.nan, -np.nan])
def test_nan_is_an_error_that_names_the_query_and_the_item(bad):
    scores = np.zeros((3, 4), dtype=np.float32)
    scores[1, 2] = bad  # not even the score of the right answer

    with pytest.raises(MgvrError, match="query 1 and item 2"):
        positions_from_scores(scores, [[0]] * 3)


def test_infinite_scores_are_ordinary_scores():
    rank = ranks(positions_from_scores(np.array([[-np.inf, 0.0, np.inf]]), [[0]]))

    assert rank.mid[0] == 3


def test_an_unanswerable_query_stays_as_a_miss():
    scores = np.array([[0.9, 0.1], [0.9, 0.1]])

    positions = positions_from_scores(scores, [[0], [MISSING]])
    metrics = summarise(positions, ks=(1, 5))

    assert (metrics.num_queries, metrics.unanswerable, metrics.pool) == (2, 1, 2)
    assert ranks(positions).mid.tolist() == [1, 3]
    assert metrics.values == {"R@1": 0.5, "R@5": 0.5, "MdR": 2, "MnR": 2, "MRR": 0.5, "nDCG@10": 0.5}
    assert metrics.optimistic == metrics.pessimistic == {"R@1": 0.5, "R@5": 0.5}


def test_a_missing_right_answer_costs_ndcg_and_nothing_else():
    found = positions_from_scores(np.array([[0.9, 0.1]]), [[0]])
    half_found = positions_from_scores(np.array([[0.9, 0.1]]), [[0, MISSING]])

    assert ranks(half_found).mid == ranks(found).mid
    assert ndcg_at(found) == [1]
    assert ndcg_at(half_found) == pytest.approx([1 / (1 + 1 / np.log2(3))])


@pytest.mark.parametrize(
    ("relevant", "message"),
    [
        ([[0], []], "query 1 .* no right answer"),
        ([[0], [2]], "query 1 names item 2"),
        ([[0], [-2]], "query 1 names item -2"),
        ([[0]], "2 rows of scores"),
    ],
)
def test_right_answers_that_cannot_be_meant_are_refused(relevant, message):
    with pytest.raises(MgvrError, match=message):
        positions_from_scores(np.zeros((2, 2)), relevant)


def test_no_queries_at_all_is_an_error():
    with pytest.raises(MgvrError, match="nothing to measure"):
        summarise(positions_from_scores(np.zeros((0, 3)), []))


def test_the_median_of_an_even_number_is_the_mean_of_the_two_middle_ranks():
    scores = np.eye(4)[[0, 1, 2, 3]] + np.arange(4) / 10
    relevant = [[0], [1], [0], [0]]  # ranks 1, 1, 4, 4

    assert summarise(positions_from_scores(scores, relevant)).values["MdR"] == 2.5


def test_positions_count_what_a_plain_loop_counts():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 6, size=(30, 20)).astype(np.float32)
    relevant = [generator.choice(20, size=generator.integers(1, 5), replace=False).tolist() for _ in range(30)]

    positions = positions_from_scores(scores, relevant)

    plain = [
        (query, sum(row > row[item]), sum(row == row[item]) - 1)
        for query, (row, items) in enumerate(zip(scores, relevant, strict=True))
        for item in sorted(items)
    ]
    assert list(zip(positions.query, positions.better, positions.tied, strict=True)) == plain


def test_the_same_right_answer_twice_is_one():
    once, twice = (positions_from_scores(np.array([[0.5, 0.9]]), [items]) for items in ([0], [0, 0]))

    assert summarise(once) == summarise(twice)


@given(judged())
def test_best_mid_worst_are_in_order_and_within_the_pool(case):
    scores, relevant = case
    rank = ranks(positions_from_scores(scores, relevant))

    assert np.all((rank.best >= 1) & (rank.best <= rank.mid) & (rank.mid <= rank.worst))
    assert np.all(rank.worst[rank.answerable] <= scores.shape[1])
    assert np.all(rank.mid[~rank.answerable] == scores.shape[1] + 1)


@given(judged(), st.randoms(use_true_random=False))
def test_permuting_the_items_changes_nothing(case, random):
    scores, relevant = case
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    moved = [[MISSING if item == MISSING else order.index(item) for item in items] for items in relevant]

    assert summarise(positions_from_scores(scores[:, order], moved)) == summarise(
        positions_from_scores(scores, relevant)
    )


@given(judged())
def test_a_worse_item_changes_no_rank(case):
    scores, relevant = case
    wider = np.concatenate([scores, np.full((len(scores), 1), -1, np.float32)], axis=1)

    before, after = ranks(positions_from_scores(scores, relevant)), ranks(positions_from_scores(wider, relevant))

    assert np.array_equal(before.mid[before.answerable], after.mid[after.answerable])
    assert np.array_equal(before.worst[before.answerable], after.worst[after.answerable])


@given(judged())
def test_recall_never_falls_with_k_and_lies_between_its_bounds(case):
    scores, relevant = case
    rank = ranks(positions_from_scores(scores, relevant))
    curve = np.array([recall_at(rank, k) for k in range(1, scores.shape[1] + 3)])

    assert np.all(np.diff(curve, axis=0) >= 0)
    assert np.array_equal(curve[-1], rank.answerable)
    for k in range(1, scores.shape[1] + 1):
        assert np.all(recall_at(rank, k, "worst") <= recall_at(rank, k))
        assert np.all(recall_at(rank, k) <= recall_at(rank, k, "best"))


@given(judged(), judged())
def test_blocks_of_queries_joined_measure_the_same_as_the_whole(first, second):
    pool = min(first[0].shape[1], second[0].shape[1])
    cut = [
        (scores[:, :pool], [[item if item < pool else MISSING for item in items] for items in relevant])
        for scores, relevant in (first, second)
    ]
    whole = positions_from_scores(np.concatenate([cut[0][0], cut[1][0]]), cut[0][1] + cut[1][1])

    joined = concatenate([positions_from_scores(*block) for block in cut])

    assert summarise(joined) == summarise(whole)


def test_the_order_of_the_pairs_does_not_matter():
    positions = positions_from_scores(np.array([[3, 2, 1], [1, 2, 3]]), [[0, 2], [1]])
    turned = Positions(
        positions.query[::-1], positions.better[::-1], positions.tied[::-1], 2, positions.pool, positions.missing
    )

    assert summarise(turned) == summarise(positions)


def test_per_query_vectors_average_to_the_summary():
    generator = np.random.default_rng(1)
    positions = positions_from_scores(generator.normal(size=(50, 30)), [[i % 30] for i in range(50)])

    vectors = per_query(positions)

    assert {name: vector.values.shape for name, vector in vectors.items()} == dict.fromkeys(vectors, (50,))
    assert vectors["MRR"].values.mean() == summarise(positions).values["MRR"]
    assert np.median(vectors["MdR"].values) == summarise(positions).values["MdR"]


def test_a_published_matrix_gives_its_published_figures(shared):
    path = shared / "features" / "msrvtt_1ka_similarity.npy"
    if not path.exists():
        pytest.skip("the MSR-VTT similarity matrix is not here")

    values = summarise(positions_from_scores(np.load(path), [[i] for i in range(1000)])).values

    assert [round(100 * values[f"R@{k}"], 1) for k in (1, 5, 10)] == [48.0, 73.0, 82.9]
