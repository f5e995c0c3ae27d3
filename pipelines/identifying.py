"""Who is who in a corpus: content hashes, ids, and files that are there twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data

from mgvr_core.datasets.manifest import CorpusConfig, list_videos
from mgvr_core.datasets.uris import fragment, is_url
from mgvr_core.errors import MgvrError
from mgvr_core.identity import hash_file
from mgvr_core.video.decoders import DecodeError, require_regular_file
from pipelines.decoding import fault

_BLOCK = 64
"""Files that one task hashes."""
_ID_DIGITS = 32
"""Hex digits of an id made from a content hash: 128 bits."""


def list_local_videos(config: CorpusConfig) -> pa.Table:
    """`list_videos`; raises MgvrError for a video that is not on the file system."""
    videos = list_videos(config)
    for uri in videos["uri"].to_pylist():
        if is_url(uri):
            raise MgvrError(f"{config.uri}: {uri} is not a file of this machine; download it, or mount where it lies")
    return videos


def unique_videos(videos: pa.Table) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Rows of `list_videos` with their content hashes and ids, one row a video, and the rows that were refused.

    A row without an id of the user's gets its content's. Two rows with one id are the same content (or segment) in two
    places: the first, in the order of uris, is kept with the captions of all, the others are refused as its duplicates.
    """
    blocks = [videos.slice(begin, _BLOCK) for begin in range(0, len(videos), _BLOCK)]
    hashed = ray.data.from_arrow(blocks).map_batches(_identify, batch_size=None, batch_format="pyarrow")
    kept: dict[str, dict[str, Any]] = {}
    refused = []
    for row in sorted(hashed.iter_rows(), key=lambda row: (row["uri"], row["start"] or 0.0)):
        row["id"] = row["id"] or content_id(row)
        if row["fault"]:
            refused.append(row)
        elif first := kept.get(row["id"]):
            first["captions"] = list(dict.fromkeys([*first["captions"], *row["captions"]]))
            refused.append({**row, "fault": fault("read", "duplicate", f"{row['uri']} is {first['uri']} once more")})
        else:
            kept[row["id"]] = row
    schema = pa.schema([*videos.schema, pa.field("content_hash", pa.string())])
    rows = [{name: row[name] for name in schema.names} for row in kept.values()]
    return pa.Table.from_pylist(rows, schema=schema), refused


def content_id(row: dict[str, Any]) -> str:
    """The id of a file that the user gave none: its content hash, with a segment's times as a media fragment."""
    digits = str(row["content_hash"])[:_ID_DIGITS]
    return digits + fragment(row["start"], row["end"]) if digits else ""


def _identify(table: pa.Table) -> pa.Table:
    """Add each file's content hash, or the fault that kept it from being read."""
    hashes: list[str] = []
    faults: list[str] = []
    for uri in table["uri"].to_pylist():
        try:
            require_regular_file(uri)
            hashes.append(hash_file(Path(uri)))
            faults.append("")
        except DecodeError as error:
            hashes.append("")
            faults.append(fault("read", error.kind, str(error)))
        except OSError as error:
            hashes.append("")
            faults.append(fault("read", "unreadable", f"{uri}: {error.strerror or error}"))
    table = table.append_column("content_hash", pa.array(hashes, pa.string()))
    return table.append_column("fault", pa.array(faults, pa.string()))
