"""Stage 1: the k best items of every query by the coarse score (docs/method.md, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

_BLOCK = 1024
"""Queries whose scores against all items are held at once when positions are counted."""


@dataclass(frozen=True)
class Candidates:
    """The k best items of Q queries, best first; equal scores by the item's index."""

    index: NDArray[np.int64]
    """(Q, k) rows of the searched items."""
    score: NDArray[np.float32]
    """(Q, k) coarse scores."""


def search(queries: NDArray[np.float32], items: NDArray[np.float32], k: int) -> Candidates:
    """Exact inner-product search: queries (Q, D), items (N, D), k at most N.

    Inner product, not cosine: a query q = t^ W is not of unit length. Items must be in the order of their ids, so that
    equal scores come out in the order of ids.
    """
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(np.ascontiguousarray(items))
    k = min(k, len(items))
    # One more than wanted tells whether the last place is contested.
    score, found = index.search(np.ascontiguousarray(queries), min(k + 1, len(items)))
    order = np.lexsort((found, -score))  # by score, best first, then by index
    found, score = np.take_along_axis(found, order, axis=1), np.take_along_axis(score, order, axis=1)
    for row in np.flatnonzero(score[:, k - 1] == score[:, k]) if k < len(items) else ():
        # faiss keeps whichever it likes of those that tie for the last place; the lowest indices are wanted.
        exact = items @ queries[row]  # (N,)
        found[row, :k] = np.argsort(-exact, kind="stable")[:k]
        score[row, :k] = exact[found[row, :k]]
    return Candidates(found[:, :k], score[:, :k])


def positions_behind(
    queries: NDArray[np.float32],
    items: NDArray[np.float32],
    candidates: Candidates,
    query: NDArray[np.int64],
    item: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where items that stage 1 did *not* recall stand in the order of coarse scores, behind the candidates.

    Of pair m, `item[m]` is not a candidate of `query[m]`. Returns how many items stand strictly before it (all
    candidates among them) and how many others are tied with it, each (M,).
    """
    better = np.zeros(len(query), np.int64)
    tied = np.zeros(len(query), np.int64)
    wanted = np.unique(query)
    for begin in range(0, len(wanted), _BLOCK):
        block = wanted[begin : begin + _BLOCK]
        scores = queries[block] @ items.T  # (B, N)
        # Candidates stand before by the rule of docs/method.md, section 4, whatever rounding says of their scores here.
        np.put_along_axis(scores, candidates.index[block], -np.inf, axis=1)
        mine = np.flatnonzero(np.isin(query, block))
        rows = scores[np.searchsorted(block, query[mine])]  # (m, N)
        truth = np.take_along_axis(rows, item[mine, None], axis=1)
        better[mine] = candidates.index.shape[1] + (rows > truth).sum(axis=1)
        tied[mine] = (rows == truth).sum(axis=1) - 1
    return better, tied
