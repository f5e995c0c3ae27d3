"""Intervals that cover what they promise, and a paired comparison that sees what two intervals hide."""

import numpy as np
import pytest

from mgvr_core.evaluation.bootstrap import Interval, interval, intervals, paired_gain, paired_gains
from mgvr_core.evaluation.metrics import Measure


def coverage(draw, truth, **options):
    """Share of 200 simulated experiments whose 95 % interval holds the truth."""
    generator = np.random.default_rng(11)
    found = [interval(draw(generator), samples=300, seed=i, **options) for i in range(200)]
    return np.mean([one.low <= truth <= one.high for one in found])


def test_the_mean_of_hits_is_covered_as_promised():
    assert 0.91 <= coverage(lambda generator: generator.random(150) < 0.4, 0.4) <= 0.98


def test_the_median_is_covered_as_promised():
    assert 0.91 <= coverage(lambda generator: generator.exponential(size=151), np.log(2), statistic="median") <= 0.99


def captions_of_videos(generator, videos=60, captions=5):
    """Hits of a video's captions that mostly succeed or fail together: the mean is 0.5."""
    easy = generator.random(videos) < 0.5
    return (generator.random((videos, captions)) < np.where(easy, 0.9, 0.1)[:, None]).ravel()


def test_captions_of_one_video_need_the_cluster_bootstrap():
    groups = np.repeat(np.arange(60), 5)

    assert coverage(captions_of_videos, 0.5, groups=groups) >= 0.91
    assert coverage(captions_of_videos, 0.5) <= 0.80  # what the promise is worth without it


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_against_resampling_written_out(statistic):
    """The weighted form draws from the same distribution as the textbook's loop."""
    values = np.random.default_rng(3).exponential(size=40)
    generator = np.random.default_rng(4)
    plain = [getattr(np, statistic)(generator.choice(values, size=40)) for _ in range(20_000)]

    found = interval(values, statistic, samples=20_000, seed=5)

    spread = np.std(plain)
    assert found.value == getattr(np, statistic)(values)
    np.testing.assert_allclose([found.low, found.high], np.quantile(plain, [0.025, 0.975]), atol=0.1 * spread)


def test_groups_of_one_are_single_queries():
    values = np.random.default_rng(0).random(50)

    assert interval(values, groups=[f"video {i:02d}" for i in range(50)]) == interval(values)


def test_the_seed_decides_and_the_memory_bound_does_not(monkeypatch):
    values = np.random.default_rng(0).random(300)
    first = interval(values, seed=1)

    assert interval(values, seed=1) == first
    assert interval(values, seed=2) != first
    monkeypatch.setattr("mgvr_core.evaluation.bootstrap._BLOCK", 1000)
    in_blocks = interval(values, seed=1)
    # The same resamples; only the summation inside the matrix product may round otherwise.
    assert (in_blocks.low, in_blocks.high) == pytest.approx((first.low, first.high), rel=1e-14)


def test_a_wider_level_is_a_wider_interval():
    values = np.random.default_rng(0).random(100)
    narrow, wide = interval(values, level=0.5), interval(values, level=0.99)

    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_what_never_varies_has_no_width():
    assert interval(np.full(7, 2.5), "median") == Interval(2.5, 2.5, 2.5)


def test_several_measures_at_once_equal_one_by_one():
    generator = np.random.default_rng(0)
    measures = {"hits": Measure(generator.random(80)), "ranks": Measure(generator.random(80), "median")}

    together = intervals(measures, seed=3)

    assert together == {name: interval(one.values, one.statistic, seed=3) for name, one in measures.items()}


def two_systems():
    """Two systems that agree on most queries: the new one finds 3 % more."""
    generator = np.random.default_rng(1)
    old = generator.random(1000) < 0.45
    return old | (generator.random(1000) < 0.055), old


def test_a_paired_gain_is_seen_where_two_intervals_overlap():
    new, old = two_systems()

    gain = paired_gain(new, old)

    assert interval(old).high > interval(new).low
    assert gain.excludes_zero
    assert gain.value == pytest.approx(new.mean() - old.mean())
    assert gain.p_value < 0.01
    assert gain.high - gain.low < interval(new).high - interval(new).low


def test_the_gain_the_other_way_is_a_loss():
    new, old = two_systems()
    loss = paired_gain(old, new)

    assert loss.excludes_zero
    assert loss.high < 0


def test_no_difference_is_not_a_gain():
    generator = np.random.default_rng(2)
    same = generator.random(400) < 0.4
    other = generator.permutation(same)

    assert not paired_gain(same, same).excludes_zero
    assert paired_gain(same, same).p_value == 1
    assert not paired_gain(same, other).excludes_zero
    assert paired_gain(same, other).p_value > 0.05


def test_medians_have_no_paired_gain():
    values = np.random.default_rng(0).random(20)
    measures = {"R@1": Measure(values), "MdR": Measure(values, "median")}

    assert list(paired_gains(measures, measures)) == ["R@1"]
