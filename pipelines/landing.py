"""The end of the encode job: finished work, this run's and what killed ones left, becomes the next snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mgvr_core.corpus.plan import Comparison, Plan, placed
from mgvr_core.features.contents import Change, Key, Source
from mgvr_core.features.pending import Pending
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from pipelines.models import FeatureMaker
from pipelines.rates import Rates
from pipelines.resuming import finished


@dataclass(frozen=True)
class Landing:
    """What came of a run."""

    snapshot: Snapshot
    parent: int
    """Number of the snapshot before."""
    encoded: int
    tried: int
    """Videos that this run wanted features of; exact duplicates of what failed among them."""
    kinds: Counter[str]
    """Failures of this run by kind."""
    repeated: int
    """Those of them that failed in the same way before."""
    unreachable: int
    """Videos that could not be looked at; their earlier features stay."""
    failed_duplicates: int

    @property
    def failed(self) -> int:
        """Videos of this run that have no features."""
        return sum(self.kinds.values())

    @property
    def alarming(self) -> int:
        """Failures that are news."""
        return self.failed - self.repeated + self.unreachable

    def allowed(self, rate: float) -> float:
        """How many failures a rate permits: one bad file is no alarm, however quiet the night, but at a rate of 0."""
        return max(1.0, rate * (self.tried - self.repeated + self.unreachable)) if rate else 0.0


def land(
    store: FeatureStore, maker: FeatureMaker, plan: Plan, compared: Comparison, about: dict[str, Any], rates: Rates
) -> Landing:
    """Commit what a run found and made; raises JobError where other runs contradict it."""
    done = finished(store, maker.fingerprint, plan)
    before = compared.head.failures
    failures = [failure for _, failure in plan.unreadable]
    encoded = failed_duplicates = 0
    for first in plan.encode:
        if (first.id, first.content_hash) in done.places:
            encoded += 1
        elif first.key in done.failures:
            failure = done.failures[first.key]
            copies = (first, *plan.shared.get(str(first.id), ()))
            failed_duplicates += len(copies) - 1
            for source in copies:
                again = replace(failure, key=source.key)
                # What another run has landed counts its attempts already.
                failures.append(again.after(before.get(source.key)) if first.key in done.recorded else again)
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
    return Landing(
        snapshot=snapshot,
        parent=parent,
        encoded=encoded,
        tried=tried,
        kinds=Counter(failure.kind for failure in failures),
        repeated=sum(f.key in before and before[f.key].kind == f.kind for f in failures),
        unreachable=plan.counts["unreachable"],
        failed_duplicates=failed_duplicates,
    )


def _settle(store: FeatureStore, snapshot: Snapshot, records: Sequence[Pending]) -> None:
    """Drop the records of which the snapshot has all. Another run's work under way is not among them."""
    sources = snapshot.sources()
    encoded = {(source.id, source.content_hash) for source in sources.values() if source.place}
    store.settle(
        [
            record
            for record in records
            if all(content in encoded for content in record.ids)
            and all(_has(sources, failure.key, digest) for digest, failure in record.failures)
        ]
    )


def _has(sources: Mapping[Key, Source], key: Key, digest: str) -> bool:
    return key in sources and sources[key].content_hash == digest
