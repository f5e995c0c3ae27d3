"""The last stage of the encode job: feature rows to shards, failed rows to the table of failures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mgvr_core.features.schema import FeatureShape, build_table, feature_schema
from mgvr_core.features.store import FAILURE_SCHEMA, FeatureStore, ShardInfo
from mgvr_core.identity import Fingerprint
from pipelines.decoding import Batch


class Write:
    """Feature rows -> one shard, failed rows -> one table of failures; returns what was written."""

    def __init__(self, root: str, shape: FeatureShape, fingerprint: Fingerprint, decoder: str) -> None:
        self._store = FeatureStore(Path(root))
        self._schema = feature_schema(shape, fingerprint)
        self._decoder = decoder

    def __call__(self, batch: Batch) -> Batch:
        good = batch["fault"] == ""
        written: list[tuple[str, ShardInfo]] = []
        if good.any():
            columns = {name: batch[name][good] for name in self._schema.names}
            for name in ("start", "end", "thumbnail"):
                columns[name] = [_or_none(value) for value in columns[name]]
            table = build_table(columns, self._schema)
            written.append(("shard", self._store.write_shard(table)))
        if not good.all():
            rows = [{name: values[row] for name, values in batch.items()} for row in np.flatnonzero(~good)]
            written.append(("failures", self._store.write_failures(failures_table(rows, self._decoder))))
        return {
            "kind": np.array([kind for kind, _ in written]),
            "info": np.array([json.dumps(asdict(info)) for _, info in written]),
        }


def failures_table(rows: list[dict[str, Any]], decoder: str) -> pa.Table:
    """Failed rows as a table of `FAILURE_SCHEMA`."""
    records = [
        {
            **{name: _or_none(row[name]) for name in ("id", "uri", "start", "end")},
            **json.loads(row["fault"]),
            "decoder": decoder,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(records, schema=FAILURE_SCHEMA)


def _or_none(value: Any) -> Any:
    """A missing value as Arrow writes it."""
    return None if value in ("", b"") or value != value else value
