"""The two stages put together: the final order, and where the right answers stand in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgvr_core.retrieval.coarse import Candidates, positions_behind

_COMPARED = 1 << 24
"""Pairs of places that are compared at once."""


@dataclass(frozen=True)
class Ranking:
    """Every query's candidates in their final order, (Q, k) each, best first.

    Items that stage 1 did not recall follow below in the order of their coarse scores (docs/method.md, section 4).
    """

    index: NDArray[np.int64]
    score: NDArray[np.floating]
    """The fused scores after a rerank, the coarse ones before."""
    coarse_rank: NDArray[np.int64]
    """Each candidate's place in stage 1, from 1; 0 for a video that only the certificate has brought in."""


def coarse_ranking(candidates: Candidates) -> Ranking:
    """Stage 1's own order."""
    places = np.broadcast_to(np.arange(1, candidates.index.shape[1] + 1), candidates.index.shape)
    return Ranking(candidates.index, candidates.score, places)


def reranked(candidates: Candidates, fused: NDArray[np.float32]) -> Ranking:
    """The candidates by their fused scores (Q, k), best first; equal scores by the item's index, that is by id."""
    order = np.lexsort((candidates.index, -fused))
    places = np.broadcast_to(np.arange(1, fused.shape[1] + 1), fused.shape)
    return Ranking(*(np.take_along_axis(part, order, axis=1) for part in (candidates.index, fused, places)))


def certified_ranking(candidates: Candidates, index: NDArray[np.int64], score: NDArray[np.float32]) -> Ranking:
    """A final list (Q, k) that is already in order, and may hold videos that stage 1 did not recall."""
    rank = np.empty(index.shape, np.int64)
    rows = max(1, _COMPARED // index.shape[1] ** 2)
    for begin in range(0, len(index), rows):
        some = slice(begin, begin + rows)
        same = index[some, :, None] == candidates.index[some, None, :]  # (B, k, k)
        rank[some] = np.where(same.any(axis=2), same.argmax(axis=2) + 1, 0)
    return Ranking(index, score, rank)


def places(
    ranking: Ranking, query: NDArray[np.int64], item: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """For right answers (query[m], item[m]): whether each is listed, listed items strictly before it, and tied with it.

    All (M,); the counts of one that is not listed are 0.
    """
    M = len(query)
    listed, better, tied = np.zeros(M, bool), np.zeros(M, np.int64), np.zeros(M, np.int64)
    rows = max(1, _COMPARED // ranking.index.shape[1])
    for begin in range(0, M, rows):
        some = slice(begin, begin + rows)
        hit = ranking.index[query[some]] == item[some, None]  # (m, k)
        listed[some] = hit.any(axis=1)
        mine = begin + np.flatnonzero(listed[some])
        scores = ranking.score[query[mine]]  # (those listed, k)
        truth = scores[hit[listed[some]]][:, None]
        better[mine] = (scores > truth).sum(axis=1)
        tied[mine] = (scores == truth).sum(axis=1) - 1
    return listed, better, tied


def positions(
    ranking: Ranking,
    candidates: Candidates,
    queries: NDArray[np.float32],
    items: NDArray[np.float32],
    query: NDArray[np.int64],
    item: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For right answers (query[m], item[m]): items strictly before each, and others tied with it, (M,) both.

    `queries` (Q, D) and `items` (N, D) are those that stage 1 searched: an answer beyond the candidates has its place
    by the coarse score.
    """
    listed, better, tied = places(ranking, query, item)
    rest = np.flatnonzero(~listed)
    better[rest], tied[rest] = positions_behind(queries, items, candidates, query[rest], item[rest])
    return better, tied


def whole_scores(ranking: Ranking, queries: NDArray[np.float32], items: NDArray[np.float32]) -> NDArray[np.float64]:
    """One score for every item that sorts as the final order does, (Q, N): for small blocks of queries.

    The candidates carry their ranking's scores, lifted above all others, which carry their coarse ones.
    """
    scores = (queries @ items.T).astype(np.float64)  # (Q, N)
    # In fp64, so that the lift costs the fp32 scores none of their digits.
    lift = scores.max(initial=0.0) - min(float(ranking.score.min(initial=0.0)), 0.0) + 1.0
    np.put_along_axis(scores, ranking.index, ranking.score.astype(np.float64) + lift, axis=1)
    return scores
