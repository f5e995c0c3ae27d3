"""What the field's usual scripts print for a similarity matrix, to the digit: for checking, never for comparing.

The scripts descend from CLIP4Clip's `metrics.py` (Luo et al. 2021, MIT licence). Where nothing ties and every score is
a number they print the figures of `metrics`. They differ in what they do with the rest:

- One caption a video (`compute_metrics`): every column that ties with the right one gives a further rank, so 100
  queries that tie everywhere are 10,000 ranks from 1 to 100. A query whose right score is NaN or infinite gives none,
  and is dropped so; another video's NaN stands below everything.
- Several captions a video (`tensor_text_to_video_metrics`), text to video: one rank a caption, ties in the order of the
  videos; a right score that is NaN or infinite is dropped, as the padding of videos with fewer captions is; another
  video's NaN stands above everything. The median of an even number of ranks is the lower of the two middle ones.
- Several captions a video, video to text: each video's captions count by the best of them, NaN as minus infinity, and
  then as with one caption.

The averages are over the ranks that are left, however many those are. Tied places of the several-captions script are
those of a stable sort; the script's own sort promises none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.metrics import IntArray

LABEL = "as the usual scripts print"
"""How a table names these figures."""

_KS = (1, 5, 10)
_BLOCK = 1 << 22
"""Scores compared at once."""


@dataclass(frozen=True)
class Printed:
    """The script's figures: R@1, R@5, R@10 as fractions, MdR, MnR; and over how many ranks it averaged."""

    values: Mapping[str, float]
    ranks: int


def text_to_video(scores: NDArray[Any], right: IntArray) -> Printed:
    """Of scores (T, V) with each query's right column (T,): the script for several captions where a video has several.

    The columns may hold NaN and infinities. Raises MgvrError where no right score is finite, so that nothing is left.
    """
    if len(np.unique(right)) == len(right):
        return _one_caption(scores, right)
    counts = np.zeros(scores.shape[1] + 1, np.int64)
    for rows, columns in _blocks(scores, right):
        own = np.take_along_axis(rows, columns[:, None], axis=1)  # (B, 1)
        left = np.arange(rows.shape[1]) < columns[:, None]
        above = (rows > own) | np.isnan(rows) | ((rows == own) & left)
        counts += np.bincount(above.sum(axis=1)[np.isfinite(own[:, 0])], minlength=len(counts))
    return _printed(counts, lower_median=True)


def video_to_text(scores: NDArray[Any], right: IntArray) -> Printed:
    """Of scores (V, T) with the right row of each caption (T,): captions of a video count by the best of them.

    Every video has a caption. Raises MgvrError as `text_to_video` does.
    """
    order = np.argsort(right, kind="stable")
    starts = np.flatnonzero(np.diff(right[order], prepend=-1))
    best = np.empty((len(scores), len(starts)), scores.dtype)
    for begin in range(0, len(scores), step := max(1, _BLOCK // scores.shape[1])):
        rows = scores[begin : begin + step][:, order]
        best[begin : begin + step] = np.maximum.reduceat(np.where(np.isnan(rows), -np.inf, rows), starts, axis=1)
    return _one_caption(best, np.arange(len(best)))


def _one_caption(scores: NDArray[Any], right: IntArray) -> Printed:
    """(Q, N) with each row's right column (Q,)."""
    edges = np.zeros(scores.shape[1] + 1, np.int64)  # +1 where a row's ranks begin, -1 behind their last
    for rows, columns in _blocks(scores, right):
        own = np.take_along_axis(rows, columns[:, None], axis=1)  # (B, 1)
        found = np.isfinite(own[:, 0])
        better = (rows > own).sum(axis=1)[found]
        tied = (rows == own).sum(axis=1)[found]  # the right one included
        edges += np.bincount(better, minlength=len(edges))
        edges -= np.bincount(better + tied, minlength=len(edges))
    return _printed(np.cumsum(edges), lower_median=False)


def _blocks(scores: NDArray[Any], right: IntArray) -> Iterator[tuple[NDArray[Any], IntArray]]:
    step = max(1, _BLOCK // scores.shape[1])
    for start in range(0, len(scores), step):
        yield np.asarray(scores[start : start + step]), right[start : start + step]


def _printed(counts: IntArray, lower_median: bool) -> Printed:
    """The figures of counts[p] ranks at place p, from 0."""
    total = int(counts.sum())
    if not total:
        raise MgvrError("no query has a finite score with its right answer: the usual scripts would divide by zero")
    until = np.cumsum(counts)
    lower = int(np.searchsorted(until, (total - 1) // 2, side="right"))
    upper = int(np.searchsorted(until, total // 2, side="right"))
    return Printed(
        {
            **{f"R@{k}": float(counts[:k].sum()) / total for k in _KS},
            "MdR": 1.0 + (lower if lower_median else (lower + upper) / 2),
            "MnR": 1.0 + float(counts @ np.arange(len(counts))) / total,
        },
        total,
    )
