"""The answers of a retrieve job: who asked, what was found, and the files that hold it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mgvr_core.evaluation.hubness import CorrectionConfig, correct
from mgvr_core.evaluation.metrics import Positions
from mgvr_core.retrieval.coarse import Candidates
from mgvr_core.retrieval.two_stage import Ranking, certified_ranking, coarse_ranking, places, reranked
from pipelines.pool import Pool
from pipelines.rows import Rows

_PAIRS = 65536
"""Right answers whose lists are in memory at once."""


@dataclass(frozen=True)
class Queries:
    """The queries, with every distinct text once: it is encoded and answered once."""

    ids: list[str]
    texts: list[str]
    """T distinct texts, sorted."""
    text_of: NDArray[np.int64]
    """(Q,) rows of `texts`."""
    relevant: list[list[str]]
    """Ids of each query's right videos; empty: unknown."""
    bank: NDArray[np.int64]
    """(B,) rows of `texts` that are a bank of training captions, for corrections of hubness."""

    @staticmethod
    def from_table(table: pa.Table, bank: Sequence[str] = ()) -> Queries:
        """From `read_queries`, and the texts of a bank, which are answered like the others."""
        texts = table["text"].to_pylist()
        distinct = sorted({*texts, *bank})
        row = {text: number for number, text in enumerate(distinct)}
        text_of = np.array([row[text] for text in texts], np.int64)
        banked = np.array(sorted({row[text] for text in bank}), np.int64)
        return Queries(table["id"].to_pylist(), distinct, text_of, table["relevant"].to_pylist(), banked)

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(Q,) whether right answers are known."""
        return np.array([len(ids) > 0 for ids in self.relevant])


@dataclass(frozen=True)
class Truth:
    """The right answers of the labelled queries that are in the pool: M pairs."""

    query: NDArray[np.int64]
    """(M,) which of the labelled queries, ascending."""
    text: NDArray[np.int64]
    """(M,) its text."""
    video: NDArray[np.int64]
    """(M,) the right video, by its place in the order of ids."""
    missing: NDArray[np.int64]
    """(Q,) right answers of each labelled query that are not in the pool."""

    @staticmethod
    def of(queries: Queries, pool: Pool) -> Truth:
        """Look the right answers up."""
        labelled = np.flatnonzero(queries.labelled)
        named = [sorted(set(queries.relevant[row])) for row in labelled]
        query = np.repeat(np.arange(len(labelled)), [len(names) for names in named])
        video = pool.places([name for names in named for name in names])
        here = video >= 0
        missing = np.bincount(query[~here], minlength=len(labelled))
        return Truth(query[here], queries.text_of[labelled[query[here]]], video[here], missing)


@dataclass(frozen=True)
class Answers:
    """What both stages found. Lists have a row for every distinct text, places one for every right answer."""

    queries: Queries
    pool: Pool
    truth: Truth
    texts: Rows
    lists: Rows
    places: Rows
    videos: Rows
    """Of the other direction, one row a video that asks."""
    projection: NDArray[np.float32]
    """W (D, D)."""

    @property
    def whole(self) -> bool:
        """Whether nothing is left to be done."""
        return all(rows.finished == rows.total for rows in (self.texts, self.lists, self.places, self.videos))

    @property
    def k(self) -> int:
        """Candidates of a text."""
        return int(self.lists["index"].shape[1])

    def candidates(self, rows: Any = slice(None)) -> Candidates:
        """Stage 1 of some texts."""
        return Candidates(self.lists["index"][rows], self.lists["coarse"][rows])

    def ranking(self, score: str, rows: Any = slice(None)) -> Ranking:
        """The candidates of some texts in the order of a score: coarse, fused, or one of stage 2 alone."""
        candidates = self.candidates(rows)
        if score == "fused" and "final_index" in self.lists:
            return certified_ranking(candidates, self.lists["final_index"][rows], self.lists["final_score"][rows])
        return coarse_ranking(candidates) if score == "coarse" else reranked(candidates, self.lists[score][rows])

    def projected(self, rows: Any = slice(None)) -> NDArray[np.float32]:
        """Stage-1 queries t^ W of some texts, (T, D)."""
        projected: NDArray[np.float32] = self.texts["vector"][rows] @ self.projection
        return projected

    @cached_property
    def asking_videos(self) -> NDArray[np.int64]:
        """The videos that ask in the other direction: those which a query has as a right answer."""
        return np.unique(self.truth.video)

    @cached_property
    def captions(self) -> NDArray[np.int64]:
        """Rows of the texts that those videos search: the queries without right answers are no captions."""
        return np.unique(self.queries.text_of[self.queries.labelled])

    def corrected(self, config: CorrectionConfig) -> tuple[Positions, str]:
        """The same for the final list after a correction of hubness, and how a table names that.

        What the correction reads of other texts are the lists of the captions, or those of the bank.
        """
        bank = None
        if config.kind != "dual_softmax" and len(self.queries.bank):
            lists = self.ranking("fused", self.queries.bank)
            bank = lists.index, lists.score
        lists = self.ranking("fused", self.captions)
        score, label = correct(config, lists.index, lists.score, bank)

        def ranking(rows: NDArray[np.int64]) -> Ranking:
            mine = np.searchsorted(self.captions, rows)
            return Ranking(lists.index[mine], score[mine], lists.coarse_rank[mine])

        return self._positions(ranking, self._final), f"{label}; {config.parameters}"

    def positions(self, score: str) -> Positions:
        """Where the right answers of the labelled queries stand in the order of a score."""
        return self._positions(lambda rows: self.ranking(score, rows), self._final if score == "fused" else "")

    @property
    def _final(self) -> str:
        """What the names of the places behind final lists begin with."""
        return "final_" if "final_better" in self.places else ""

    def _positions(self, ranking: Callable[[NDArray[np.int64]], Ranking], kind: str) -> Positions:
        truth = self.truth
        better, tied = np.array(self.places[f"{kind}better"]), np.array(self.places[f"{kind}tied"])
        for begin in range(0, len(truth.query), _PAIRS):
            mine = slice(begin, begin + _PAIRS)
            rows, where = np.unique(truth.text[mine], return_inverse=True)
            listed, above, level = places(ranking(rows), where, truth.video[mine])
            better[mine], tied[mine] = np.where(listed, above, better[mine]), np.where(listed, level, tied[mine])
        return Positions(truth.query, better, tied, len(truth.missing), len(self.pool), truth.missing)
