"""Stage 1: the k best items of every query by the coarse score, block by block (docs/method.md, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

_QUERIES, _ITEMS = 1024, 16384
"""Scores that are held at once when items are counted."""
_AT_ONCE = 4096
"""Queries that faiss multiplies at once."""
_LEAST = 1 << 17
"""Numbers in a block of queries from which faiss's library sums in one order."""
_CONTESTED = 32
"""Queries with a contested last place whose scores against a whole block are sorted at once."""
_ROUNDING = 2.0**-21
"""Scores that differ by less, of a query of unit length, are one: a product's last bits hang on what is beside it."""


@dataclass(frozen=True)
class Candidates:
    """The k best items of Q queries, best first; equal scores by the item's index."""

    index: NDArray[np.int64]
    """(Q, k) items by their place in the order of ids."""
    score: NDArray[np.float32]
    """(Q, k) coarse scores."""

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Candidates:
        """Those of some queries."""
        return Candidates(self.index[rows], self.score[rows])


def search(queries: NDArray[np.float32], items: NDArray[np.float32], k: int) -> Candidates:
    """Exact inner-product search: queries (Q, D), items (N, D) in the order of their ids, k at most N."""
    return search_block(queries, items, np.arange(len(items)), k)


def search_blocks(
    queries: NDArray[np.float32], blocks: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]], k: int
) -> Candidates:
    """Exact search of items that come in blocks, at least one: (n, D) and (n,) as `search_block` takes them."""
    found: Candidates | None = None
    for items, order in blocks:
        more = search_block(queries, items, order, k)
        found = more if found is None else merge((found, more), k)
    if found is None:
        raise ValueError("there is no item to search")
    return found


def search_block(
    queries: NDArray[np.float32], items: NDArray[np.float32], order: NDArray[np.int64], k: int
) -> Candidates:
    """Exact search of one block: queries (Q, D), items (n, D), each with its place in the order of all ids, (n,).

    Inner product, not cosine: a query q = t^ W is not of unit length. faiss multiplies block by block and keeps the
    best as it goes; which of those that tie it keeps is its own affair, so the last place is settled here, by id.
    """
    k = min(k, len(items))
    # One more than wanted tells whether the last place is contested.
    parts = [
        _nearest(queries[at : at + _AT_ONCE], items, min(k + 1, len(items))) for at in range(0, len(queries), _AT_ONCE)
    ]
    score, row = (np.concatenate(part) for part in zip(*parts, strict=True))
    found = _sorted(order[row], score)
    if k == len(items):
        return found
    contested = np.flatnonzero(found.score[:, k - 1] == found.score[:, k])
    for begin in range(0, len(contested), _CONTESTED):
        rows = contested[begin : begin + _CONTESTED]
        exact = queries[rows] @ items.T  # (B, n)
        best = np.lexsort((np.broadcast_to(order, exact.shape), -exact))[:, :k]
        found.index[rows, :k] = order[best]
        found.score[rows, :k] = np.take_along_axis(exact, best, axis=1)
    return Candidates(found.index[:, :k], found.score[:, :k])


def _nearest(
    queries: NDArray[np.float32], items: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """faiss's scores and rows (Q, k) of at most as many queries as it multiplies at once.

    Few queries are filled up with zeros: its library would sum their products in another order, and the scores of a
    query would depend on how many are asked with it.
    """
    Q, D = queries.shape
    filled = np.pad(queries, ((0, max(0, -(-_LEAST // D) - Q)), (0, 0)))
    score, row = faiss.knn(filled, np.ascontiguousarray(items), k, metric=faiss.METRIC_INNER_PRODUCT)
    return score[:Q], row[:Q]


def merge(parts: Sequence[Candidates], k: int) -> Candidates:
    """The k best of what several blocks have found for the same queries."""
    found = _sorted(
        np.concatenate([part.index for part in parts], axis=1), np.concatenate([part.score for part in parts], axis=1)
    )
    return Candidates(found.index[:, :k], found.score[:, :k])


@dataclass(frozen=True)
class Standing:
    """Where M items stand among all, by their own scores: (M,) each."""

    above: NDArray[np.int64]
    level: NDArray[np.int64]
    """The item itself among them."""

    def __add__(self, other: Standing) -> Standing:
        """Of two blocks together."""
        return Standing(self.above + other.above, self.level + other.level)


def standing(queries: NDArray[np.float32], items: NDArray[np.float32], truth: NDArray[np.float32]) -> Standing:
    """How many items have more than a score, and how many the same: queries (M, D), items (n, D), truth (M,).

    Scores that differ by rounding alone are the same.
    """
    above, level = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.int64)
    low, high = _around(queries, truth)
    for row in range(0, len(queries), _QUERIES):
        mine = slice(row, row + _QUERIES)
        for begin in range(0, len(items), _ITEMS):
            scores = queries[mine] @ items[begin : begin + _ITEMS].T  # (B, n)
            better = np.count_nonzero(scores > high[mine], axis=1)
            above[mine] += better
            level[mine] += np.count_nonzero(scores >= low[mine], axis=1) - better
    return Standing(above, level)


def behind(
    candidates: NDArray[np.float32], queries: NDArray[np.float32], truth: NDArray[np.float32], among: Standing
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where items stand that are *not* among their query's candidates: items before each, and others tied with it.

    candidates: the candidates' scores (M, k). `among` is the item's standing among all items. All candidates stand
    before it: one with the same score by the order of ids, one with a lower score because an approximate index found
    it and not the other.
    """
    low, high = _around(queries, truth)
    better = np.count_nonzero(candidates > high, axis=1)
    level = np.count_nonzero(candidates >= low, axis=1) - better
    k = candidates.shape[1]
    return k + np.maximum(among.above - better, 0), np.maximum(among.level - 1 - level, 0)


def positions_behind(
    queries: NDArray[np.float32],
    items: NDArray[np.float32],
    candidates: Candidates,
    query: NDArray[np.int64],
    item: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`behind` of pairs whose items are all in memory: item[m] is not a candidate of query[m], both (M,)."""
    asked = queries[query]  # (M, D)
    truth = np.einsum("md,md->m", asked, items[item])
    return behind(candidates.score[query], asked, truth, standing(asked, items, truth))


def _around(
    queries: NDArray[np.float32], truth: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The least and the largest score (M, 1) that counts as the same as `truth` (M,)."""
    slack = _ROUNDING * np.maximum(np.linalg.norm(queries, axis=1), 1)
    return (truth - slack)[:, None].astype(np.float32), (truth + slack)[:, None].astype(np.float32)


def _sorted(index: NDArray[np.int64], score: NDArray[np.float32]) -> Candidates:
    """Lists (Q, n) by score, best first, then by index."""
    order = np.lexsort((index, -score))
    return Candidates(np.take_along_axis(index, order, axis=1), np.take_along_axis(score, order, axis=1))
