"""Who is who in a corpus: what its files hold, their ids, and files that are there twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data

from mgvr_core.corpus.files import Trouble, hash_video, persist, require_schemes
from mgvr_core.corpus.plan import Content, content_id
from mgvr_core.datasets.manifest import CorpusConfig, list_videos
from mgvr_core.features.contents import Key
from pipelines.decoding import DecodingConfig, fault
from pipelines.progress import progress

_BLOCK = 64
"""Files that one task hashes."""
_KEEP_EVERY_S = 30.0
"""Seconds of reading that a kill may cost."""


def list_corpus(config: CorpusConfig) -> pa.Table:
    """`list_videos`; raises MgvrError for a video that no client here reaches."""
    videos = list_videos(config)
    require_schemes(videos["uri"].to_pylist(), config.uri)
    return videos


def read_contents(
    uris: Sequence[str], decoding: DecodingConfig, keep: Callable[[dict[str, Content]], None] = lambda contents: None
) -> dict[str, Content]:
    """The content of each file, read by the workers of the connected cluster.

    Where that takes long, `keep` is given what has been read since it was called last, now and then.
    """
    names = list(dict.fromkeys(uris))
    if not names:
        return {}
    blocks = [pa.table({"uri": names[begin : begin + _BLOCK]}) for begin in range(0, len(names), _BLOCK)]
    read = partial(_read, attempts=decoding.attempts, backoff_s=decoding.backoff_s)
    hashed = ray.data.from_arrow(blocks).map_batches(read, batch_size=None, batch_format="pyarrow")
    contents: dict[str, Content] = {}
    since: dict[str, Content] = {}
    due = time.monotonic() + _KEEP_EVERY_S
    with progress("read", len(names), "read") as counter:
        for row in hashed.iter_rows():
            counter.add.remote("read", 1)
            contents[row["uri"]] = since[row["uri"]] = _as_content(row)
            if time.monotonic() >= due:
                keep(since)
                since, due = {}, time.monotonic() + _KEEP_EVERY_S
    return contents


def unique_videos(videos: pa.Table, decoding: DecodingConfig) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Rows of `list_videos` with their content hashes and ids, one row a video, and the rows that were refused.

    A row without an id of the user's gets its content's. Two rows with one id are the same content (or segment) in two
    places: the first, in the order of uris, is kept with the captions of all. A refused row could not be read, as its
    `fault` says.
    """
    rows = videos.to_pylist()
    contents = read_contents([row["uri"] for row in rows], decoding)
    kept: dict[str, dict[str, Any]] = {}
    refused = []
    for row in sorted(rows, key=lambda row: (row["uri"], row["start"] or 0.0)):
        outcome, attempts = contents[row["uri"]]
        if isinstance(outcome, Trouble):
            refused.append({**row, "fault": fault("read", outcome.kind, outcome.message, attempts)})
            continue
        name = row["id"] or content_id(outcome, Key("", row["uri"], row["start"], row["end"]))
        if first := kept.get(name):
            first["captions"] = list(dict.fromkeys([*first["captions"], *row["captions"]]))
        else:
            kept[name] = {**row, "id": name, "content_hash": outcome}
    schema = videos.schema.append(pa.field("content_hash", pa.string()))
    return pa.Table.from_pylist(list(kept.values()), schema=schema), refused


def _as_content(row: dict[str, Any]) -> Content:
    return Content(Trouble(row["kind"], row["message"]) if row["kind"] else row["hash"], row["attempts"])


def _read(table: pa.Table, attempts: int, backoff_s: float) -> pa.Table:
    """The content hash of each file, or the kind and message of what kept it from being read."""
    found = []
    for uri in table["uri"].to_pylist():
        outcome, tried = persist(lambda uri=uri: hash_video(uri), attempts, backoff_s)  # type: ignore[misc]
        kind, message = outcome if isinstance(outcome, Trouble) else ("", "")
        digest = "" if isinstance(outcome, Trouble) else outcome
        found.append({"uri": uri, "hash": digest, "kind": kind, "message": message, "attempts": tried})
    return pa.Table.from_pylist(found)
