"""Who asks, what is in the pool and what is right: the truth that a similarity matrix or a run is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mgvr_core.evaluation.metrics import MISSING, IntArray, Positions


@dataclass(frozen=True)
class Truth:
    """T queries over a pool of V videos; the ids of each are distinct."""

    queries: tuple[str, ...]
    """In the order of a matrix's rows."""
    videos: tuple[str, ...]
    """In the order of a matrix's columns."""
    relevant: tuple[tuple[str, ...], ...]
    """The ids of each query's right videos, at least one; some may not be in the pool."""

    @cached_property
    def columns(self) -> list[list[int]]:
        """The columns of each query's right videos, `MISSING` for one that is not in the pool."""
        place = {video: column for column, video in enumerate(self.videos)}
        return [[place.get(video, MISSING) for video in right] for right in self.relevant]

    @cached_property
    def only(self) -> IntArray | None:
        """(T,) the column of each query's one right video; None where a query has several, or none in the pool."""
        if any(len(right) != 1 or right[0] == MISSING for right in self.columns):
            return None
        return np.array([right[0] for right in self.columns], np.int64)

    @cached_property
    def groups(self) -> IntArray:
        """(T,) the number of each query's group, in the order of first occurrence: those with the same right videos."""
        number: dict[frozenset[str], int] = {}
        return np.array([number.setdefault(frozenset(right), len(number)) for right in self.relevant], np.int64)

    @property
    def clustered(self) -> bool:
        """Whether several queries have the same right videos, so that whole groups must be resampled."""
        return int(self.groups.max()) + 1 < len(self.queries)

    @cached_property
    def asking(self) -> IntArray:
        """(A,) columns of the videos that ask in the other direction: those that are right for some query."""
        return np.unique([column for right in self.columns for column in right if column != MISSING]).astype(np.int64)

    @cached_property
    def captions(self) -> dict[int, list[int]]:
        """Column of a video -> rows of the queries that it is right for."""
        found: dict[int, list[int]] = {}
        for row, right in enumerate(self.columns):
            for column in sorted(set(right) - {MISSING}):
                found.setdefault(column, []).append(row)
        return found


def positions_in_lists(lists: Mapping[str, Sequence[tuple[str, float]]], truth: Truth) -> Positions:
    """Where the right videos stand in lists of (video, score), each video once a list and all of them in the pool.

    Equal scores are ties, whatever their order. A right video that its query's list lacks counts as missing, as
    evaluators of TREC runs have it: how far behind the list it stands, a run does not say.
    """
    query, better, tied = [], [], []
    missing = np.zeros(len(truth.queries), np.int64)
    for row, (name, right) in enumerate(zip(truth.queries, truth.relevant, strict=True)):
        score_of = dict(lists.get(name, ()))
        scores = np.array(list(score_of.values()))
        for video in dict.fromkeys(right):
            if video not in score_of:
                missing[row] += 1
                continue
            query.append(row)
            better.append(int((scores > score_of[video]).sum()))
            tied.append(int((scores == score_of[video]).sum()) - 1)
    return Positions(
        query=np.array(query, np.int64),
        better=np.array(better, np.int64),
        tied=np.array(tied, np.int64),
        num_queries=len(truth.queries),
        pool=len(truth.videos),
        missing=missing,
    )
