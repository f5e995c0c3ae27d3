"""Any corpus of the user's own, as the project's manifests and query files describe it."""

from __future__ import annotations

import math
from pathlib import Path

from mgvr_core.datasets.benchmarks.assembling import GROUPS, Captions, assemble, queries_of, some
from mgvr_core.datasets.benchmarks.benchmark import Benchmark, Protocol, Query
from mgvr_core.datasets.benchmarks.files import Annotations
from mgvr_core.datasets.manifest import ColumnsConfig, CorpusConfig, list_videos
from mgvr_core.datasets.queries import QueriesConfig, read_queries
from mgvr_core.datasets.tables import SUFFIXES, read_rows
from mgvr_core.errors import MgvrError

PROTOCOLS = (Protocol("manifest", "A manifest of one's own", "as the manifest has them", 32, 12, 0, GROUPS),)


def read(protocol: Protocol, source: Annotations) -> Benchmark:
    """The benchmark from a manifest with ids, as `mgvr encode` reads it; else MgvrError.

    A folder: test.* with test-queries.* and, where they are, train.* and validation.* (.csv, .tsv, .parquet, .jsonl),
    as `mgvr dataset` and `mgvr demo` write them. A file: the manifest, with FILE-queries.* beside it. Without a file of
    queries the manifest's captions are the queries. A query whose videos the manifest lacks stays, and is noted.
    """
    file = source.test(*_named("test"))
    videos = _videos(file)
    asked = source.find(*_named(f"{file.stem}-queries"))
    queries = (
        queries_of({video: texts for video, (texts, _, _) in videos.items()}) if asked is None else _queries(asked)
    )
    if not queries:
        raise MgvrError(
            f"{file} has no captions, and there is no {file.stem}-queries.jsonl beside it: nothing is asked"
        )
    lost = [query.id for query in queries if not any(video in videos for video in query.relevant)]
    if len(lost) == len(queries):
        raise MgvrError(f"{asked}: no query asks for a video of {file}: are these the queries of another corpus?")
    notes = (
        [f"queries that ask for videos that {file.name} lacks, each a miss: {len(lost):,} of {len(queries):,}"]
        if lost
        else []
    )
    train, validation = _split(source, "train"), _split(source, "validation")
    everything = {**train, **validation, **videos}
    return assemble(
        *(protocol, source, queries, list(videos), _captions(train), _captions(validation)),
        notes=notes,
        spans={video: span for video, (_, span, _) in everything.items() if span},
        uris={video: uri for video, (_, _, uri) in everything.items()},
    )


def _named(stem: str) -> list[str]:
    return [f"{stem}{suffix}" for suffix in (".jsonl", *(suffix for suffix in SUFFIXES if suffix != ".jsonl"))]


_Videos = dict[str, tuple[list[str], tuple[float, float] | None, str]]


def _videos(file: Path) -> _Videos:
    """Id -> (captions, (start, end) in seconds, uri), in the order of the file."""
    rows = read_rows(file, ColumnsConfig(), required=("id", "uri"))
    order: dict[str, None] = {}  # an ordered set
    for row, video in enumerate(rows.texts("id")):
        if video is None:
            raise rows.error(row, "the id is empty: queries and results name videos by it, so fill it in")
        order[video] = None
    found: _Videos = {}
    for row in list_videos(CorpusConfig(uri=str(file))).to_pylist():
        start, end = row["start"], row["end"]
        span = None if start is None and end is None else (start or 0.0, math.inf if end is None else end)
        found[row["id"]] = (row["captions"], span, row["uri"])
    return {video: found[video] for video in order}


def _queries(file: Path) -> list[Query]:
    rows = read_queries(QueriesConfig(uri=str(file))).to_pylist()
    bare = next((row for row in rows if not row["relevant"]), None)
    if bare is not None:
        raise MgvrError(f"{file}: the query {bare['id']!r} names no right video: a benchmark needs one in `relevant`")
    return [Query(row["id"], row["text"], tuple(row["relevant"])) for row in rows]


def _split(source: Annotations, name: str) -> _Videos:
    file = source.find(*_named(name)) if source.path == source.folder else None
    videos = _videos(file) if file else {}
    bare = [video for video, (texts, _, _) in videos.items() if not texts]
    if bare:
        raise MgvrError(f"{file} has no caption for {some(bare)}: add them, or remove the rows")
    return videos


def _captions(videos: _Videos) -> Captions:
    return {video: texts for video, (texts, _, _) in videos.items()}
