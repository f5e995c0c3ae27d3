"""How far a figure would move with another sample of queries: the percentile bootstrap (Efron and Tibshirani 1993).

Queries are drawn with replacement. Where several captions describe one video, their queries are not independent and
an interval over single queries is too narrow: pass `groups` (the video of each query), and whole videos are drawn
instead (the cluster bootstrap). Leave it out where every video has one query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mgvr_core.evaluation.metrics import FloatArray, Measure, Statistic

_BLOCK = 1 << 21  # weights held at once: 16 MiB
SAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure and the percentile bootstrap interval around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Gain:
    """The paired difference of two systems on the same queries, with its interval.

    p_value: twice the share of resamples on the far side of 0, with one added to both counts so that it is never 0;
    a reading aid, not an exact test.
    """

    value: float
    low: float
    high: float
    p_value: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def interval(
    values: npt.ArrayLike,
    statistic: Statistic = "mean",
    *,
    level: float = LEVEL,
    samples: int = SAMPLES,
    seed: int = 0,
    groups: Sequence[object] | None = None,
) -> Interval:
    """The interval of one per-query vector (Q,)."""
    measure = Measure(np.asarray(values, dtype=np.float64), statistic)
    return intervals({"": measure}, level=level, samples=samples, seed=seed, groups=groups)[""]


def intervals(
    measures: Mapping[str, Measure],
    *,
    level: float = LEVEL,
    samples: int = SAMPLES,
    seed: int = 0,
    groups: Sequence[object] | None = None,
) -> dict[str, Interval]:
    """The intervals of several per-query vectors over the same resamples: drawn once, whatever their number."""
    drawn = _resampled(measures, samples, seed, groups)
    tails = [(1 - level) / 2, (1 + level) / 2]
    found = {}
    for name, measure in measures.items():
        low, high = np.quantile(drawn[name], tails)
        found[name] = Interval(measure.value, float(low), float(high))
    return found


def paired_gain(
    new: npt.ArrayLike,
    old: npt.ArrayLike,
    *,
    level: float = LEVEL,
    samples: int = SAMPLES,
    seed: int = 0,
    groups: Sequence[object] | None = None,
) -> Gain:
    """The mean of new - old over the same queries, both (Q,): narrower than two separate intervals suggest."""
    return paired_gains(
        {"": Measure(np.asarray(new, dtype=np.float64))},
        {"": Measure(np.asarray(old, dtype=np.float64))},
        level=level,
        samples=samples,
        seed=seed,
        groups=groups,
    )[""]


def paired_gains(
    new: Mapping[str, Measure],
    old: Mapping[str, Measure],
    *,
    level: float = LEVEL,
    samples: int = SAMPLES,
    seed: int = 0,
    groups: Sequence[object] | None = None,
) -> dict[str, Gain]:
    """The gain of every metric of `new` whose statistic is the mean, over the same resamples."""
    differences = {
        name: Measure(measure.values - old[name].values)
        for name, measure in new.items()
        if measure.statistic == "mean"  # the median of differences is not the difference of medians
    }
    drawn = _resampled(differences, samples, seed, groups)
    gains = {}
    for name, difference in differences.items():
        low, high = np.quantile(drawn[name], [(1 - level) / 2, (1 + level) / 2])
        far_side = min((drawn[name] <= 0).sum(), (drawn[name] >= 0).sum())
        p_value = min(1.0, 2 * float(far_side + 1) / (samples + 1))
        gains[name] = Gain(difference.value, float(low), float(high), p_value)
    return gains


def _resampled(
    measures: Mapping[str, Measure], samples: int, seed: int, groups: Sequence[object] | None
) -> dict[str, FloatArray]:
    """(samples,) values of each measure's statistic, one a resample."""
    (size,) = {len(measure.values) for measure in measures.values()}
    drawn: dict[str, list[FloatArray]] = {name: [] for name in measures}
    for weights in _weights(size, samples, seed, groups):
        for name, measure in measures.items():
            weighted = _means if measure.statistic == "mean" else _medians
            drawn[name].append(weighted(weights, measure.values))
    return {name: np.concatenate(blocks) for name, blocks in drawn.items()}


def _weights(size: int, samples: int, seed: int, groups: Sequence[object] | None) -> Iterator[FloatArray]:
    """Blocks of (block, Q): how often each query is in each resample."""
    group = np.arange(size) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(group.max()) + 1
    generator = np.random.default_rng(seed)
    step = max(1, _BLOCK // max(size, count))
    for start in range(0, samples, step):
        block = min(step, samples - start)
        picks = generator.integers(count, size=(block, count))
        cells = picks + count * np.arange(block)[:, None]  # one histogram a resample, all in one pass
        times = np.bincount(cells.ravel(), minlength=block * count).reshape(block, count)
        yield times[:, group].astype(np.float64)


def _means(weights: FloatArray, values: FloatArray) -> FloatArray:
    """(block,) weighted means; with groups of unequal size the total weight differs from resample to resample."""
    means: FloatArray = weights @ values / weights.sum(axis=1)
    return means


def _medians(weights: FloatArray, values: FloatArray) -> FloatArray:
    """(block,) weighted medians: the mean of the two middle values of each resample written out in order."""
    order = np.argsort(values)
    until = np.cumsum(weights[:, order], axis=1)  # (block, Q) how many drawn values are at or before this one
    total = until[:, -1:]
    lower = np.argmax(until >= np.floor((total + 1) / 2), axis=1)
    upper = np.argmax(until >= np.floor(total / 2) + 1, axis=1)
    medians: FloatArray = (values[order][lower] + values[order][upper]) / 2
    return medians
