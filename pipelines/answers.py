"""The answers of a retrieve job: who asked, what was found, and the files that hold it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mgvr_core.evaluation.metrics import Positions
from mgvr_core.evaluation.trec import write_qrels, write_run
from mgvr_core.files import placing
from mgvr_core.retrieval.coarse import Candidates
from mgvr_core.retrieval.two_stage import Ranking, positions
from pipelines.answering import Pool

_ROWS = 4096
"""Queries whose results are put together at once."""

_RESULTS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # from 1
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),  # fused, a weighted sum of cosines
        pa.field("coarse_rank", pa.int32(), nullable=False),
        pa.field("coarse_score", pa.float32(), nullable=False),
        pa.field("relevant", pa.bool_()),  # null: the query has no right answers
    ]
)


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

    @staticmethod
    def from_table(table: pa.Table) -> Queries:
        """From `read_queries`."""
        texts = table["text"].to_pylist()
        distinct = sorted(set(texts))
        row = {text: number for number, text in enumerate(distinct)}
        text_of = np.array([row[text] for text in texts], np.int64)
        return Queries(table["id"].to_pylist(), distinct, text_of, table["relevant"].to_pylist())

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """(Q,) whether right answers are known."""
        return np.array([len(ids) > 0 for ids in self.relevant])


@dataclass(frozen=True)
class Answers:
    """What both stages found. Rankings have a row for every distinct text."""

    queries: Queries
    pool: Pool
    projected: NDArray[np.float32]
    """(T, D) stage-1 queries t^ W."""
    candidates: Candidates
    coarse: Ranking
    two_stage: Ranking
    single: dict[str, Ranking]
    """The candidates reranked by each score alone."""

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Rows of the pool by video id."""
        return {name: row for row, name in enumerate(self.pool.ids)}

    @cached_property
    def asking_videos(self) -> NDArray[np.int64]:
        """Rows of the videos that ask in the other direction: those which a query has as a right answer."""
        named = {name for ids in self.queries.relevant for name in ids}
        return np.array(sorted(self.row_of[name] for name in named if name in self.row_of), np.int64)

    @cached_property
    def captions(self) -> NDArray[np.int64]:
        """Rows of the texts that those videos search: the queries without right answers are no captions."""
        return np.unique(self.queries.text_of[self.queries.labelled])

    def positions(self, ranking: Ranking) -> Positions:
        """Where the right answers of the labelled queries stand in a ranking."""
        labelled = np.flatnonzero(self.queries.labelled)
        query, item = [], []
        missing = np.zeros(len(labelled), np.int64)
        for number, asked in enumerate(labelled):
            rows = [self.row_of.get(name) for name in set(self.queries.relevant[asked])]
            found = [row for row in rows if row is not None]
            missing[number] = len(rows) - len(found)
            query += [number] * len(found)
            item += found
        pairs = np.array(query, np.int64), np.array(item, np.int64)
        text = self.queries.text_of[labelled[pairs[0]]]
        better, tied = positions(ranking, self.candidates, self.projected, self.pool.video, text, pairs[1])
        return Positions(pairs[0], better, tied, len(labelled), len(self.pool.ids), missing)


def write_results(answers: Answers, folder: Path) -> None:
    """Write results.parquet, run.trec and, where right answers are known, qrels.trec; each whole or not at all."""
    with placing(folder / "results.parquet") as partial, pq.ParquetWriter(partial, _RESULTS) as writer:
        for begin in range(0, len(answers.queries.ids), _ROWS):
            writer.write_table(_results(answers, slice(begin, begin + _ROWS)))
    ids = np.array(answers.pool.ids, object)
    ranked = answers.two_stage.index

    def lists() -> Iterator[tuple[str, list[str]]]:
        for name, text in zip(answers.queries.ids, answers.queries.text_of, strict=True):
            yield name, ids[ranked[text]].tolist()

    write_run(folder / "run.trec", lists(), tag="mgvr-two-stage")
    if answers.queries.labelled.any():
        right = zip(answers.queries.ids, answers.queries.relevant, strict=True)
        write_qrels(folder / "qrels.trec", ((name, found) for name, found in right if found))


def _results(answers: Answers, part: slice) -> pa.Table:
    queries, ranking = answers.queries, answers.two_stage
    text = queries.text_of[part]  # (q,)
    index = ranking.index[text]  # (q, k)
    q, k = index.shape
    ids, uris = np.array(answers.pool.ids, object), np.array(answers.pool.uris, object)
    asked = np.repeat(np.arange(len(queries.ids))[part], k)
    coarse_rank = ranking.coarse_rank[text]
    relevant = [
        str(video) in queries.relevant[row] if queries.relevant[row] else None
        for row, video in zip(asked, ids[index].reshape(-1), strict=True)
    ]
    columns = {
        "query_id": np.array(queries.ids, object)[asked],
        "text": np.array(queries.texts, object)[np.repeat(text, k)],
        "rank": np.tile(np.arange(1, k + 1), q),
        "video_id": ids[index].reshape(-1),
        "uri": uris[index].reshape(-1),
        "score": ranking.score[text].reshape(-1),
        "coarse_rank": coarse_rank.reshape(-1),
        "coarse_score": np.take_along_axis(answers.candidates.score[text], coarse_rank - 1, axis=1).reshape(-1),
        "relevant": relevant,
    }
    return pa.table({name: pa.array(values, _RESULTS.field(name).type) for name, values in columns.items()}, _RESULTS)
