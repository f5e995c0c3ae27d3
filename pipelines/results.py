"""The answers as files: a table for programs, a run and qrels for judges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mgvr_core.evaluation.trec import write_qrels, write_run
from mgvr_core.files import placing
from pipelines.answers import Answers

_QUERIES = 4096
"""Queries whose results are put together at once."""

_RESULTS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # from 1
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),  # fused, a weighted sum of cosines
        pa.field("coarse_rank", pa.int32()),  # null: stage 1 did not recall it, the certificate has brought it in
        pa.field("coarse_score", pa.float32()),
        pa.field("relevant", pa.bool_()),  # null: the query has no right answers
    ]
)


def write_results(answers: Answers, folder: Path) -> None:
    """Write results.parquet, run.trec and, where right answers are known, qrels.trec; each whole or not at all."""
    queries = answers.queries
    parts = [slice(begin, begin + _QUERIES) for begin in range(0, len(queries.ids), _QUERIES)]
    with placing(folder / "results.parquet") as partial, pq.ParquetWriter(partial, _RESULTS) as writer:
        for part in parts:
            writer.write_table(_results(answers, part))

    def lists() -> Iterator[tuple[str, list[str]]]:
        for part in parts:
            index = answers.ranking("fused", queries.text_of[part]).index  # (q, k)
            names = answers.pool.names(index.reshape(-1))
            for row, name in enumerate(queries.ids[part]):
                yield name, names[row * answers.k : (row + 1) * answers.k]

    write_run(folder / "run.trec", lists(), tag="mgvr-two-stage")
    if queries.labelled.any():
        right = zip(queries.ids, queries.relevant, strict=True)
        write_qrels(folder / "qrels.trec", ((name, found) for name, found in right if found))


def _results(answers: Answers, part: slice) -> pa.Table:
    queries = answers.queries
    text = queries.text_of[part]  # (q,)
    ranking, candidates = answers.ranking("fused", text), answers.candidates(text)
    q, k = ranking.index.shape
    coarse = np.take_along_axis(candidates.score, np.maximum(ranking.coarse_rank - 1, 0), axis=1)
    flat = pa.array(ranking.index.reshape(-1))
    ids = answers.pool.ids.take(flat)
    asked = np.repeat(np.arange(len(queries.ids))[part], k)
    relevant = [
        video in queries.relevant[row] if queries.relevant[row] else None
        for row, video in zip(asked.tolist(), ids.to_pylist(), strict=True)
    ]
    columns = {
        "query_id": pa.array(queries.ids[part]).take(pa.array(asked - asked[0])),
        "text": pa.array([queries.texts[row] for row in text.tolist()]).take(pa.array(asked - asked[0])),
        "rank": np.tile(np.arange(1, k + 1), q),
        "video_id": ids,
        "uri": answers.pool.uris.take(flat),
        "score": ranking.score.reshape(-1),
        "coarse_rank": np.ma.masked_equal(ranking.coarse_rank.reshape(-1), 0),
        "coarse_score": np.ma.masked_array(coarse.reshape(-1), ranking.coarse_rank.reshape(-1) == 0),
        "relevant": relevant,
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in _RESULTS], schema=_RESULTS)
