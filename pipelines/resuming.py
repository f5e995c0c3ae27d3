"""What of a plan is done already: by this run, by one that was killed, or by another that has landed meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import pyarrow as pa

from mgvr_core.corpus.plan import Plan
from mgvr_core.features.contents import Contents, Failure, Key, Place, ShardInfo, Source
from mgvr_core.features.pending import Pending
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint

_ROWS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("id", "uri", "content_hash", "version")),
        *(pa.field(name, pa.float64()) for name in ("start", "end")),
        pa.field("size", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Finished:
    """What is done of a plan."""

    places: Mapping[tuple[str, str], Place]
    """By id and content hash."""
    failures: Mapping[Key, Failure]
    """Of the records, and those that another run has landed meanwhile."""
    recorded: Set[Key]
    """Which of `failures` are of the records: not in the set yet."""
    records: Sequence[Pending]
    landed: Sequence[ShardInfo]
    """Shards of the set as it is now, into which some of `places` may point."""
    left: pa.Table
    """What is not: id, uri, content_hash, start, end, and the file's size and version, of each video to be encoded."""

    def used(self, plan: Plan) -> list[Pending]:
        """The records that hold something of a plan."""
        wanted = {(source.id, source.content_hash) for source in plan.encode}
        keys = {source.key for source in plan.encode}
        return [
            record
            for record in self.records
            if not wanted.isdisjoint(record.ids) or any(failure.key in keys for _, failure in record.failures)
        ]


def finished(
    store: FeatureStore, fingerprint: Fingerprint, plan: Plan, retry: Callable[[Failure], bool] | None = None
) -> Finished:
    """The part of a plan that lies about finished. Failures that `retry` picks count as not done."""
    records = store.pending(fingerprint)
    places: dict[tuple[str, str], Place] = {}
    wanted = {source.key: source for source in plan.encode}
    failures: dict[Key, Failure] = {}
    for record in records:
        for content, place in record.places:
            places.setdefault(content, place)
        for digest, failure in record.failures:
            source = wanted.get(failure.key)
            if source is None or source.content_hash != digest or (retry is not None and retry(failure)):
                continue
            if failure.key not in failures or failures[failure.key].at < failure.at:
                failures[failure.key] = failure
    recorded = set(failures)

    def left() -> list[Source]:
        return [s for s in plan.encode if (s.id, s.content_hash) not in places and s.key not in failures]

    head = Contents()
    if left():
        # Another run may have committed since the plan was made; of that there are no records any more.
        head = store.contents()
        for source in head.sources.values():
            if source.place:
                places.setdefault((str(source.id), str(source.content_hash)), source.place)
        for source in left():
            landed = head.failures.get(source.key)
            same = landed is not None and head.sources[source.key].content_hash == source.content_hash
            if landed is not None and same and not (retry is not None and retry(landed)):
                failures[source.key] = landed
    return Finished(places, failures, recorded, records, head.shards, _rows(left()))


def _rows(sources: Sequence[Source]) -> pa.Table:
    columns = {
        name: [getattr(source, name) for source in sources] for name in ("id", "content_hash", "size", "version")
    }
    columns |= {name: [getattr(source.key, name) for source in sources] for name in ("uri", "start", "end")}
    return pa.table([columns[name] for name in _ROWS.names], schema=_ROWS)
