"""Which of many systems a set of queries can tell apart, and the letters that a table says it with.

Every two systems are compared by the exact paired randomisation test of the difference of their R@1 (Fisher 1935; for
retrieval: Smucker, Allan and Carterette 2007): were they alike, each query's difference could as well have had the
other sign. Where several queries describe one video, whole videos change sign, as the bootstrap draws them. The
p-values are exact, not drawn: with a query a video it is McNemar's exact test. A bootstrap of 2,000 resamples has no
p-value below 0.001, which no correction for the 780 pairs of 40 systems would leave below 0.05.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.bootstrap import LEVEL
from mgvr_core.evaluation.metrics import FloatArray, IntArray

Pair = tuple[str, str]


def group_letters(
    hits: Mapping[str, FloatArray], groups: Sequence[object] | None = None, *, level: float = LEVEL
) -> dict[str, str]:
    """The letters of each system: two systems share one if, and only if, the queries can't tell them apart.

    hits: system -> (Q,) 1.0 where a right answer came first, else 0.0; the same queries in the same order. groups: (Q,)
    the video of each query, where several describe one. Two systems are told apart where the p-value of
    `paired_p_values`, adjusted for all pairs by Holm's step-down (1979), is below 1 - level: with a chance of at least
    `level`, no two that are alike are told apart. The letter "a" is the best system's (compact letter display, Piepho
    2004). Raises MgvrError where hits are no hits, or of other queries.
    """
    p_values = holm(paired_p_values(hits, groups))
    alike = {name: {name} for name in hits}
    for (one, other), p_value in p_values.items():
        if p_value >= 1 - level:
            alike[one].add(other)
            alike[other].add(one)
    best_first = sorted(hits, key=lambda name: -float(hits[name].sum()))
    return letters(best_first, alike)


def paired_p_values(hits: Mapping[str, FloatArray], groups: Sequence[object] | None = None) -> dict[Pair, float]:
    """The two-sided p-value of every two systems, unadjusted; arguments as of `group_letters`."""
    lengths = {len(values) for values in hits.values()}
    if len(lengths) > 1:
        raise MgvrError(f"systems with {sorted(lengths)} queries can't be paired: give every system the same queries")
    for name, values in hits.items():
        if not np.isin(values, (0.0, 1.0)).all():
            raise MgvrError(f"system {name!r}: a hit is 1 or 0, but its hits hold other values")
    group = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    found = {}
    for one, other in combinations(hits, 2):
        difference = (hits[one] - hits[other]).astype(np.int64)  # (Q,)
        if group is not None:
            difference = np.bincount(group, weights=difference).round().astype(np.int64)  # (videos,)
        found[one, other] = _randomised(difference)
    return found


def _randomised(difference: IntArray) -> float:
    """The share of all 2^n signs of the n differences whose sum is at least as far from 0 as theirs."""
    size, times = np.unique(np.abs(difference[difference != 0]), return_counts=True)
    furthest = int((size * times).sum())
    if furthest == 0:
        return 1.0
    # The sum of independent +d or -d has the characteristic function prod cos(d x); its inverse is the distribution
    # over the whole numbers from -furthest to furthest, those below 0 at the end.
    period = 2 * furthest + 1
    x = 2 * np.pi * np.arange(furthest + 1) / period
    transform = np.prod([np.cos(value * x) ** count for value, count in zip(size, times, strict=True)], axis=0)
    share = np.fft.irfft(transform, n=period)
    far = abs(int(difference.sum()))
    tail = share.sum() if far == 0 else share[far : period - far + 1].sum()
    return float(np.clip(tail, 0.0, 1.0))


def holm(p_values: Mapping[Pair, float]) -> dict[Pair, float]:
    """The p-values adjusted for their number, step by step from the smallest (Holm 1979)."""
    adjusted, largest = {}, 0.0
    for done, (pair, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_value))
        adjusted[pair] = largest
    return adjusted


def letters(order: Sequence[str], alike: Mapping[str, set[str]]) -> dict[str, str]:
    """Letters so that two names share one if, and only if, they are `alike` (symmetric; each name its own like).

    Each letter stands for a set of names that are all alike, made as large as it goes from the first two in `order`
    that share none yet.
    """
    alphabet = _alphabet()
    given: dict[str, str] = dict.fromkeys(order, "")
    for start in order:
        for other in order:
            if other in alike[start] and not set(given[start]) & set(given[other]):
                members = {start, other}
                members.update(_joining(order, alike, members))
                letter = next(alphabet)
                given.update({name: given[name] + letter for name in members})
    return given


def _joining(order: Sequence[str], alike: Mapping[str, set[str]], members: set[str]) -> set[str]:
    """The names, in order, that are alike to all members and to those that have joined before."""
    joined = set(members)
    for name in order:
        if joined <= alike[name]:
            joined.add(name)
    return joined


def _alphabet() -> Iterator[str]:
    """a to z, A to Z, and then whatever else is a letter: there is no last one that a large table could reach."""
    codes = [*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1), *range(0xC0, 0x10000)]
    return (letter for letter in map(chr, codes) if letter.isalpha())
