"""Who is who in a corpus: content hashes, ids, and files that are there twice."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import ray.data

from pipelines.decoding import fault, identify

_BLOCK = 64
"""Files that one task hashes."""
_ID_DIGITS = 32
"""Hex digits of an id made from a content hash: 128 bits."""


def unique_videos(videos: pa.Table) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Rows of `list_videos` with their content hashes and ids, one row a video, and the rows that were refused.

    A row without an id of the user's gets its content's. Two rows with one id are the same content (or segment) in two
    places: the first, in the order of uris, is kept, the others are refused as duplicates of it.
    """
    blocks = [videos.slice(begin, _BLOCK) for begin in range(0, len(videos), _BLOCK)]
    hashed = ray.data.from_arrow(blocks).map_batches(identify, batch_size=None, batch_format="pyarrow")
    rows = list(hashed.iter_rows())
    kept: dict[str, dict[str, Any]] = {}
    refused = []
    for row in sorted(rows, key=lambda row: (row["uri"], row["start"] or 0.0)):
        row["id"] = row["id"] or content_id(row)
        if row["fault"]:
            refused.append(row)
        elif row["id"] in kept:
            same = kept[row["id"]]["uri"]
            refused.append({**row, "fault": fault("read", "duplicate", f"{row['uri']} has the content of {same}")})
        else:
            kept[row["id"]] = row
    schema = pa.schema([*videos.schema, pa.field("content_hash", pa.string()), pa.field("fault", pa.string())])
    return pa.Table.from_pylist(list(kept.values()), schema=schema), refused


def content_id(row: dict[str, Any]) -> str:
    """The id of a file that the user gave none: its content hash, with the segment's times where it has any."""
    digits = str(row["content_hash"])[:_ID_DIGITS]
    if not digits or (row["start"] is None and row["end"] is None):
        return digits
    return f"{digits}@{json.dumps(row['start'])}-{json.dumps(row['end'])}"
