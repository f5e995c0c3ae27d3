"""Retrieval metrics with one rank per query, honest about ties and about right answers that are not in the pool.

Everything starts from `Positions`: where each right answer stands in its query's list, ties counted and not broken.
A position list is small (one entry a right answer), so it can be made block by block from lists that never fit in
memory, and every metric, interval and plot is computed from it. Rates are fractions from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mgvr_core.errors import MgvrError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Statistic = Literal["mean", "median"]

MISSING = -1
"""In a list of right answers: a right answer that is not in the pool."""

_PAIRS_TIMES_POOL = 1 << 22  # comparisons held at once by the exhaustive reference


@dataclass(frozen=True)
class Positions:
    """Where the right answers stand: M (query, right answer) pairs over Q queries.

    query: (M,) int64, index of the query, 0 <= query < num_queries, in any order.
    better: (M,) int64, items of the pool ranked strictly above this right answer, right ones included.
    tied: (M,) int64, other items of the pool tied with it, right ones included.
    missing: (Q,) int64, right answers of the query that are not in the pool.

    A query whose right answers are all missing is unanswerable: it stays, as a miss. A query without any right
    answer has no metric: MgvrError names it.
    """

    query: IntArray
    better: IntArray
    tied: IntArray
    num_queries: int
    pool: int
    missing: IntArray

    def __post_init__(self) -> None:
        without = np.flatnonzero(self.present + self.missing == 0)
        if without.size:
            raise MgvrError(
                f"query {without[0]} (and {without.size - 1} more) has no right answer, so no metric can be taken: "
                "leave such queries out of the evaluation"
            )

    @property
    def present(self) -> IntArray:
        """(Q,) right answers of each query that are in the pool."""
        return np.bincount(self.query, minlength=self.num_queries).astype(np.int64)


@dataclass(frozen=True)
class Ranks:
    """One rank per query, from 1: of its best right answer against the wrong ones. Arrays are (Q,) float64.

    best and worst are the optimistic and the pessimistic rank (ties broken for or against the right answer), mid the
    mean of the two. Where `answerable` (Q,) bool is False, all three are pool + 1, and no cut-off counts as a hit.
    """

    mid: FloatArray
    best: FloatArray
    worst: FloatArray
    answerable: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Measure:
    """A metric before it is averaged: (Q,) float64, and the statistic that makes one number of it."""

    values: FloatArray
    statistic: Statistic = "mean"

    @property
    def value(self) -> float:
        """The mean or the median (of an even number: the mean of the two middle values)."""
        return float(np.mean(self.values) if self.statistic == "mean" else np.median(self.values))


@dataclass(frozen=True)
class Metrics:
    """The figures of one ranking. `values` has R@K for each K, MdR, MnR, MRR and nDCG@10, in this order.

    optimistic and pessimistic: R@K with every tie broken for or against the right answer; equal where
    `tied_queries` (queries whose right answer is tied with a wrong one) is 0.
    """

    values: Mapping[str, float]
    optimistic: Mapping[str, float]
    pessimistic: Mapping[str, float]
    num_queries: int
    pool: int
    unanswerable: int
    tied_queries: int


def positions_from_scores(scores: npt.NDArray[Any], relevant: Sequence[Sequence[int]]) -> Positions:
    """Positions in a full score matrix: the exhaustive reference.

    scores: (Q, N) floats, higher is better. relevant: for each query the columns of its right answers, `MISSING` for
    one that is not in the pool; the same column twice is one answer.
    Raises MgvrError for a NaN, a column outside the pool, or a query without right answers.
    """
    num_queries, pool = scores.shape
    if len(relevant) != num_queries:
        raise MgvrError(f"{num_queries} rows of scores, but right answers for {len(relevant)} queries")
    if (nan := np.argwhere(np.isnan(scores))).size:
        row, column = nan[0]
        raise MgvrError(f"the score of query {row} and item {column} is not a number (NaN); {len(nan)} such scores")

    missing = np.array([sum(item == MISSING for item in items) for items in relevant], dtype=np.int64)
    present = [sorted({item for item in items if item != MISSING}) for items in relevant]
    query = np.repeat(np.arange(num_queries), [len(items) for items in present])  # (M,)
    item = np.array([item for items in present for item in items], dtype=np.int64)  # (M,)
    if (outside := np.flatnonzero((item < 0) | (item >= pool))).size:
        pair = outside[0]
        raise MgvrError(f"query {query[pair]} names item {item[pair]} as right, but the pool has items 0 to {pool - 1}")

    better = np.empty(len(query), dtype=np.int64)
    tied = np.empty(len(query), dtype=np.int64)
    step = max(1, _PAIRS_TIMES_POOL // pool)
    for start in range(0, len(query), step):
        block = slice(start, start + step)
        rows = scores[query[block]]  # (step, N)
        own = scores[query[block], item[block], None]  # (step, 1)
        better[block] = (rows > own).sum(axis=1)
        tied[block] = (rows == own).sum(axis=1) - 1
    return Positions(query, better, tied, num_queries, pool, missing)


def concatenate(blocks: Sequence[Positions]) -> Positions:
    """One Positions from consecutive blocks of queries over the same pool."""
    (pool,) = {block.pool for block in blocks}
    starts = np.cumsum([0, *(block.num_queries for block in blocks)])
    return Positions(
        query=np.concatenate([block.query + start for block, start in zip(blocks, starts, strict=False)]),
        better=np.concatenate([block.better for block in blocks]),
        tied=np.concatenate([block.tied for block in blocks]),
        num_queries=int(starts[-1]),
        pool=pool,
        missing=np.concatenate([block.missing for block in blocks]),
    )


def ranks(positions: Positions) -> Ranks:
    """One rank per query: 1 + #{wrong answers above its best right answer} + half of #{wrong answers tied with it}."""
    size = positions.num_queries
    above = np.full(size, positions.pool, dtype=np.int64)
    np.minimum.at(above, positions.query, positions.better)  # nothing right stands above the best right answer
    first = positions.better == above[positions.query]
    right_tied = np.bincount(positions.query[first], minlength=size)  # the best right answer included
    tied = np.zeros(size, dtype=np.int64)
    tied[positions.query[first]] = positions.tied[first]
    answerable = right_tied > 0
    wrong_tied = np.where(answerable, tied + 1 - right_tied, 0)
    best = (1 + above).astype(np.float64)
    return Ranks(mid=best + wrong_tied / 2, best=best, worst=best + wrong_tied, answerable=answerable)


def recall_at(ranks: Ranks, k: int, tie: Literal["mid", "best", "worst"] = "mid") -> FloatArray:
    """(Q,) 1.0 where a right answer stands at rank k or above, else 0.0."""
    rank = {"mid": ranks.mid, "best": ranks.best, "worst": ranks.worst}[tie]
    return ((rank <= k) & ranks.answerable).astype(np.float64)


def reciprocal_rank(ranks: Ranks) -> FloatArray:
    """(Q,) 1 / rank, 0 for an unanswerable query."""
    return np.where(ranks.answerable, 1 / ranks.mid, 0.0)


def ndcg_at(positions: Positions, k: int = 10) -> FloatArray:
    """(Q,) nDCG@k with binary gain and log2 discount, averaged over every order of tied items.

    A right answer gains the mean discount of the places that its tie group fills (McSherry and Najork 2008,
    "Computing information retrieval performance measures efficiently in the presence of tied scores"). The ideal list
    holds the missing right answers too: what is not in the pool is lost, not forgiven.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))  # (k,) places 1 to k
    gained = np.concatenate([[0.0], np.cumsum(discount)])  # gained[p]: sum over places 1 to p
    last = positions.better + positions.tied + 1
    gain = (gained[np.minimum(last, k)] - gained[np.minimum(positions.better, k)]) / (positions.tied + 1)  # (M,)
    ideal = gained[np.minimum(positions.present + positions.missing, k)]
    total = np.zeros(positions.num_queries)
    # From the best place down, so that the sum's last digit does not depend on how the items are numbered.
    order = np.lexsort((positions.better, positions.query))
    np.add.at(total, positions.query[order], gain[order])
    ndcg: FloatArray = total / ideal
    return ndcg


def per_query(positions: Positions, ks: Sequence[int] = (1, 5, 10)) -> dict[str, Measure]:
    """Every metric as its per-query vector, for averages, intervals and paired tests alike."""
    rank = ranks(positions)
    return {
        **{f"R@{k}": Measure(recall_at(rank, k)) for k in ks},
        "MdR": Measure(rank.mid, "median"),
        "MnR": Measure(rank.mid),
        "MRR": Measure(reciprocal_rank(rank)),
        "nDCG@10": Measure(ndcg_at(positions, 10)),
    }


def summarise(positions: Positions, ks: Sequence[int] = (1, 5, 10)) -> Metrics:
    """The figures of one ranking. Raises MgvrError where there is no query."""
    if not positions.num_queries:
        raise MgvrError("no query has right answers, so there is nothing to measure")
    rank = ranks(positions)
    return Metrics(
        values={name: measure.value for name, measure in per_query(positions, ks).items()},
        optimistic={f"R@{k}": float(recall_at(rank, k, "best").mean()) for k in ks},
        pessimistic={f"R@{k}": float(recall_at(rank, k, "worst").mean()) for k in ks},
        num_queries=positions.num_queries,
        pool=positions.pool,
        unanswerable=int((~rank.answerable).sum()),
        tied_queries=int((rank.worst > rank.best).sum()),
    )
