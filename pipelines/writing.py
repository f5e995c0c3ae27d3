"""The last stage of the encode job: feature rows to shards, and a record of what is done."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from mgvr_core.features.contents import Failure, Key
from mgvr_core.features.schema import FeatureShape, build_table, feature_schema
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint
from mgvr_core.scratch import sweep
from pipelines.decoding import Batch
from pipelines.memory import peak_memory


class Write:
    """Feature rows -> one shard, failed rows -> failures, and one record of both; returns the record's name.

    From here on the work is safe: a run that takes over after a kill finds the record and does not repeat it.
    """

    def __init__(
        self,
        url: str,
        corpus: str,
        shape: FeatureShape,
        fingerprint: Fingerprint,
        decoders: str,
        run: str,
        counter: Any,
    ) -> None:
        sweep()
        self._store = FeatureStore(url)
        self._corpus, self._decoders, self._run = corpus, decoders, run
        self._schema, self._fingerprint = feature_schema(shape, fingerprint), fingerprint
        self._counter = counter

    def __call__(self, batch: Batch) -> Batch:
        began = time.perf_counter()
        good = batch["fault"] == ""
        shard = None
        if good.any():
            columns = {name: batch[name][good] for name in self._schema.names}
            for name in ("start", "end", "thumbnail"):
                columns[name] = [_or_none(value) for value in columns[name]]
            shard = self._store.write_shard(build_table(columns, self._schema))
        ids = list(zip(batch["id"][good].tolist(), batch["content_hash"][good].tolist(), strict=True))
        failures = [
            (str(batch["content_hash"][row]), self._failure({name: values[row] for name, values in batch.items()}))
            for row in np.flatnonzero(~good)
        ]
        name = self._store.record(self._fingerprint, shard, ids, failures, self._run)
        self._counter.add.remote("written", int(good.sum()))
        self._counter.measure.remote({"write_s": time.perf_counter() - began}, *peak_memory())
        return {"record": np.array([name])}

    def _failure(self, row: dict[str, Any]) -> Failure:
        key = Key(self._corpus, str(row["uri"]), _or_none(float(row["start"])), _or_none(float(row["end"])))
        return Failure(key=key, id=str(row["id"]), decoder=self._decoders, **json.loads(row["fault"]))


def _or_none(value: Any) -> Any:
    """A missing value as Arrow writes it."""
    return None if value in ("", b"") or value != value else value
