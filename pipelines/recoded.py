"""What of a set is coded already, and the tasks that code the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import ray
import torch

from mgvr_core.errors import JobError
from mgvr_core.features.codec import Codec
from mgvr_core.features.contents import Contents, Place, ShardInfo, Source
from mgvr_core.features.pending import Pending
from mgvr_core.features.schema import build_table, feature_schema, shape_of
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint
from mgvr_core.scratch import sweep
from pipelines.codebooks import plain_features
from pipelines.progress import progress


@dataclass(frozen=True)
class Coded:
    """Videos that are coded: in the set, or by a run that did not end."""

    places: Mapping[tuple[str | None, str | None], Place]
    """By id and content hash."""
    shards: tuple[ShardInfo, ...]
    """All that the places point into."""
    records: Sequence[Pending]

    def place(self, source: Source) -> Source:
        """A plain set's source as one of the coded set; raises JobError where its video is not coded."""
        if source.place is None:
            return source
        place = self.places.get((source.id, source.content_hash))
        if place is None:
            raise JobError(f"the coded {source.key.uri} is gone: mgvr corpus gc has removed it. Run it again")
        return replace(source, place=place)


def coded(store: FeatureStore, fingerprint: Fingerprint) -> Coded:
    """What a set, and the unfinished runs beside it, have of a fingerprint."""
    records = store.pending(fingerprint)
    store.renew(records)
    head = store.contents()  # after the records: what is committed meanwhile is in one or the other
    places = {(source.id, source.content_hash): source.place for source in head.sources.values() if source.place}
    for record in records:
        for content, place in record.places:
            places.setdefault(content, place)
    return Coded(places, (*head.shards, *(record.shard for record in records if record.shard)), records)


def left(source: Snapshot, wanted: Contents, done: Coded) -> dict[int, list[int]]:
    """What is not coded yet: by the shard's number in the plain snapshot, the rows of its file."""
    numbers = {shard.path: number for number, shard in enumerate(source.shards)}
    rows: dict[int, set[int]] = defaultdict(set)
    for found in wanted.sources.values():
        if found.place and (found.id, found.content_hash) not in done.places:
            rows[numbers[found.place.shard]].add(found.place.row)
    return {number: sorted(rows[number]) for number in sorted(rows)}


def code(source: Snapshot, rows: Mapping[int, list[int]], store: FeatureStore, codec: Codec, as_: Fingerprint) -> None:
    """Code some rows, a task a shard; when it returns, all are written down. Needs a Ray connection."""
    shared, run = ray.put(codec), uuid4().hex
    with progress("recode", sum(map(len, rows.values())), "coded") as counter:
        ray.get(
            [
                _code.remote(source, number, wanted, store.url, shared, as_, run, counter)
                for number, wanted in rows.items()
            ]
        )


@ray.remote
def _code(
    source: Snapshot, number: int, rows: list[int], url: str, codec: Codec, as_: Fingerprint, run: str, counter: Any
) -> None:
    """Rows of a shard's file -> a coded shard and a record of it: from then on they need not be coded again."""
    sweep()
    shard = source.shards[number]
    table = source.read_shard(shard).take(pa.array(np.searchsorted(shard.live_rows, rows)))
    with torch.inference_mode():
        columns = codec.columns(**plain_features(table))  # type: ignore[arg-type]
    shape = shape_of(table.schema)
    schema = feature_schema(replace(shape, patches=codec.config.tokens or shape.patches), as_)
    packed = build_table(columns, pa.schema([schema.field(name) for name in columns]))
    # All else is taken over as it is, what an older program did not keep too.
    joined = [packed[name] if name in columns else table[name] for name in schema.names]
    store = FeatureStore(url)
    written = store.write_shard(pa.table(joined, schema=schema))
    ids = zip(table["id"].to_pylist(), table["content_hash"].to_pylist(), strict=True)
    store.record(as_, written, list(ids), run=run)
    counter.add.remote("coded", len(rows))
