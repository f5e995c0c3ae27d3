"""The end of the encode job: finished work, this run's and what killed ones left, becomes the next snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from mgvr_core.corpus.plan import Comparison, Plan, placed
from mgvr_core.features.contents import Change, Contents, Failure, Key, Place, ShardInfo, Source
from mgvr_core.features.pending import Pending
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint
from pipelines.models import FeatureMaker
from pipelines.rates import Rates

_ROWS = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("id", "uri", "content_hash")),
        *(pa.field(name, pa.float64()) for name in ("start", "end")),
    ]
)


@dataclass(frozen=True)
class Finished:
    """What is done of a plan."""

    places: Mapping[tuple[str, str], Place]
    """By id and content hash."""
    failures: Mapping[Key, Failure]
    records: Sequence[Pending]
    landed: Sequence[ShardInfo]
    """Shards of the set as it is now, into which some of `places` may point."""
    left: pa.Table
    """What is not: id, uri, content_hash, start, end of each video to be encoded."""


@dataclass(frozen=True)
class Landing:
    """What came of a run."""

    snapshot: Snapshot
    parent: int
    """Number of the snapshot before."""
    encoded: int
    tried: int
    kinds: Counter[str]
    """Failures of this run by kind."""

    @property
    def failed(self) -> int:
        """Videos of this run that have no features."""
        return sum(self.kinds.values())

    @property
    def failure_rate(self) -> float:
        """Of the videos that were tried."""
        return self.failed / max(1, self.tried)


def finished(
    store: FeatureStore, fingerprint: Fingerprint, plan: Plan, retry: Callable[[Failure], bool] | None = None
) -> Finished:
    """The part of a plan that lies about finished. Failures that `retry` picks count as not done."""
    records = store.pending(fingerprint)
    places: dict[tuple[str, str], Place] = {}
    wanted = {source.key: source for source in plan.encode}
    failures: dict[Key, Failure] = {}
    for record in records:
        for row, content in enumerate(record.ids if record.shard else ()):
            places.setdefault(content, Place(record.shard.path, row))  # type: ignore[union-attr]
        for digest, failure in record.failures:
            source = wanted.get(failure.key)
            if source is None or source.content_hash != digest or (retry is not None and retry(failure)):
                continue
            if failure.key not in failures or failures[failure.key].at < failure.at:
                failures[failure.key] = failure

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
    return Finished(places, failures, records, head.shards, _rows(left()))


def land(
    store: FeatureStore, maker: FeatureMaker, plan: Plan, compared: Comparison, about: dict[str, Any], rates: Rates
) -> Landing:
    """Commit what a run found and made; raises JobError where other runs contradict it."""
    done = finished(store, maker.fingerprint, plan)
    before = compared.head.failures
    failures = [failure for _, failure in plan.unreadable]
    encoded = 0
    for first in plan.encode:
        if (first.id, first.content_hash) in done.places:
            encoded += 1
        elif first.key in done.failures:
            failure = done.failures[first.key]
            for source in (first, *plan.shared.get(str(first.id), ())):
                failures.append(replace(failure, key=source.key).after(before.get(source.key)))
    shards = [record.shard for record in done.records if record.shard]
    size = sum(shard.bytes for shard in shards) / max(1, sum(shard.rows for shard in shards))
    change = Change(
        sources=placed(plan, done.places, done.failures),
        gone=plan.gone,
        failures=failures,
        shards=(*plan.shards, *done.landed, *shards),
    )
    parent = store.latest()
    snapshot = store.commit(maker.fingerprint, change, {**about, "run": rates.record(encoded, size)})
    _settle(store, snapshot, done.records)
    tried = len(plan.encode) + sum(map(len, plan.shared.values())) + len(plan.unreadable)
    return Landing(snapshot, parent, encoded, tried, Counter(failure.kind for failure in failures))


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _settle(store: FeatureStore, snapshot: Snapshot, records: Sequence[Pending]) -> None:
    """Drop the records of which the snapshot has all. Another run's work under way is not among them."""
    sources = snapshot.sources()
    encoded = {(source.id, source.content_hash) for source in sources.values() if source.place}
    store.settle(
        [
            record
            for record in records
            if all(content in encoded for content in record.ids)
            and all(failure.key in sources for _, failure in record.failures)
        ]
    )


def _rows(sources: Sequence[Source]) -> pa.Table:
    columns = {name: [getattr(source, name) for source in sources] for name in ("id", "content_hash")}
    columns |= {name: [getattr(source.key, name) for source in sources] for name in ("uri", "start", "end")}
    return pa.table([columns[name] for name in _ROWS.names], schema=_ROWS)
