"""The end of a run: what it made becomes part of the set, also where another run has been at the same videos."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mgvr_core.corpus.files import Look
from mgvr_core.corpus.plan import Comparison, Content, Listed, Plan, compare, content_id, decide, placed
from mgvr_core.features.contents import Change, Failure, Key, ShardInfo, Source
from mgvr_core.features.schema import FeatureShape, build_table, feature_schema
from mgvr_core.features.store import FeatureStore
from mgvr_core.features.verify import verify
from mgvr_core.identity import Fingerprint
from mgvr_core.video.sampling import SamplingConfig
from pipelines.landing import Landing, land
from pipelines.models import FeatureMaker
from pipelines.rates import Rates
from pipelines.resuming import finished

SHAPE = FeatureShape(frames=2, dim=4, patches=0)
MAKER = FeatureMaker(Fingerprint({"weights": "abc"}), SamplingConfig(), SHAPE, 32, "model", ())
KEYS = [Key("corpus", f"{letter}.mp4") for letter in "abc"]
HASHES = [letter * 64 for letter in "abc"]
IDS = [content_id(digest, key) for digest, key in zip(HASHES, KEYS, strict=True)]
AT = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "set")


def planned(store: FeatureStore, hashes: Sequence[str] = HASHES) -> tuple[Comparison, Plan]:
    listed = [Listed(key, None, Look(1, "mtime:1")) for key in KEYS]
    compared = compare(listed, store.contents(), "corpus", lambda failure: False)
    return compared, decide(compared, {key.uri: Content(digest) for key, digest in zip(KEYS, hashes, strict=True)}, AT)


def encoded(store: FeatureStore, *rows: int) -> ShardInfo:
    """Some of the three videos as a worker writes them, with its record."""
    n = len(rows)
    columns: dict[str, Any] = {
        "id": [IDS[row] for row in rows],
        "uri": [KEYS[row].uri for row in rows],
        "content_hash": [HASHES[row] for row in rows],
        **dict.fromkeys(("start", "end", "decoder", "thumbnail"), [None] * n),
        **dict.fromkeys(("duration", "fps"), [1.0] * n),
        "timestamps": np.zeros((n, 2)),
        "mask": np.ones((n, 2)),
        "video": np.eye(4)[list(rows)],
        "frame_norms": np.ones((n, 2)),
        **dict.fromkeys(("frames", "temporal"), np.eye(4)[[[row, row] for row in rows]]),
    }
    shard = store.write_shard(build_table(columns, feature_schema(SHAPE, MAKER.fingerprint)))
    store.record(MAKER.fingerprint, shard, list(zip(columns["id"], columns["content_hash"], strict=True)))
    return shard


def broken(store: FeatureStore, row: int, kind: str = "broken") -> Failure:
    failure = Failure(KEYS[row], IDS[row], "decode", kind, "no frame", 1, "pyav", AT)
    store.record(MAKER.fingerprint, None, [], [(HASHES[row], failure)])
    return failure


def landed(store: FeatureStore, compared: Comparison, plan: Plan) -> Landing:
    return land(store, MAKER, plan, compared, {}, Rates(time.monotonic()))


def left(rows: pa.Table) -> list[str]:
    return sorted(rows["uri"].to_pylist())


def test_what_lies_about_finished_is_not_done_again_and_lands(store: FeatureStore) -> None:
    compared, plan = planned(store)
    assert left(finished(store, MAKER.fingerprint, plan).left) == ["a.mp4", "b.mp4", "c.mp4"]
    encoded(store, 0, 1)
    failure = broken(store, 2)
    assert left(finished(store, MAKER.fingerprint, plan).left) == []
    landing = landed(store, compared, plan)
    assert (landing.encoded, landing.tried, landing.kinds) == (2, 3, {"broken": 1})
    assert landing.snapshot.contents().failures == {KEYS[2]: failure}
    assert store.pending(MAKER.fingerprint) == []
    assert verify(landing.snapshot).problems == ()


def test_two_runs_at_the_same_videos_both_land(store: FeatureStore) -> None:
    """The second has counted on the first's work, whose records are gone when it comes to land."""
    compared, plan = planned(store)
    first = encoded(store, 0)
    failure = broken(store, 1)
    encoded(store, 2)
    one = landed(store, compared, plan)
    other = landed(store, compared, plan)
    assert other.snapshot == one.snapshot  # nothing is left to change
    assert (other.encoded, other.failed) == (2, 1)
    assert first in other.snapshot.shards
    assert store.contents().failures == {KEYS[1]: failure}
    assert verify(other.snapshot).problems == ()


def test_what_another_run_has_landed_meanwhile_is_not_done_again(store: FeatureStore) -> None:
    compared, plan = planned(store)
    encoded(store, 0)
    broken(store, 1)
    encoded(store, 2)
    landed(store, compared, plan)
    assert left(finished(store, MAKER.fingerprint, plan).left) == []
    assert left(finished(store, MAKER.fingerprint, plan, lambda failure: True).left) == ["b.mp4"]


def test_a_file_that_has_changed_since_it_failed_in_another_run_is_not_done(store: FeatureStore) -> None:
    _, plan = planned(store, [HASHES[0], "f" * 64, HASHES[2]])
    compared, before = planned(store)
    encoded(store, 0)
    broken(store, 1)
    encoded(store, 2)
    landed(store, compared, before)
    assert left(finished(store, MAKER.fingerprint, plan).left) == ["b.mp4"]


def test_a_run_lands_although_another_drops_the_videos_that_it_counts_on(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, plan = planned(store)
    encoded(store, 0, 1, 2)
    landed(store, compared, plan)

    def between(*arguments: Any) -> Sequence[Source]:
        """What the run counts on is known by now, and goes before it commits."""
        store.commit(MAKER.fingerprint, Change(gone=list(store.contents().sources.values())), {})
        return placed(*arguments)

    monkeypatch.setattr("pipelines.landing.placed", between)
    landing = landed(store, compared, plan)
    assert (landing.snapshot.number, landing.snapshot.rows) == (3, 3)
    assert verify(landing.snapshot).problems == ()


def test_unfinished_work_whose_shard_is_gone_heals_by_itself(store: FeatureStore) -> None:
    compared, plan = planned(store)
    shard = encoded(store, 0, 1)
    encoded(store, 2)
    (Path(store.url) / shard.path).unlink()
    assert left(finished(store, MAKER.fingerprint, plan).left) == ["a.mp4", "b.mp4"]
    encoded(store, 0, 1)
    landing = landed(store, compared, plan)
    assert landing.snapshot.rows == 3
    assert verify(landing.snapshot).problems == ()


def test_a_record_stays_until_its_failure_is_in_the_set(store: FeatureStore) -> None:
    """Of a file that has changed since the set knew it: another run's record, not to be taken for landed."""
    compared, plan = planned(store)
    encoded(store, 0, 1, 2)
    landed(store, compared, plan)
    failure = Failure(KEYS[1], "f" * 32, "decode", "corrupt", "no frame", 1, "pyav", AT)
    store.record(MAKER.fingerprint, None, [], [("f" * 64, failure)])
    landed(store, *planned(store))
    assert len(store.pending(MAKER.fingerprint)) == 1


def test_a_failure_that_another_run_has_landed_is_not_counted_twice(store: FeatureStore) -> None:
    compared, plan = planned(store)
    encoded(store, 0, 2)
    broken(store, 1)
    landed(store, compared, plan)
    again = landed(store, compared, plan)
    assert again.snapshot.number == 1
    assert again.snapshot.contents().failures[KEYS[1]].attempts == 1


@pytest.mark.parametrize(
    ("failed", "repeated", "unreachable", "rate", "alarm"),
    [
        (1, 0, 0, 0.05, False),  # one bad file in a quiet night
        (1, 0, 0, 0.0, True),
        (2, 0, 0, 0.05, True),  # of 12 tried
        (2, 2, 0, 0.05, False),  # as every night
        (0, 0, 30, 0.05, True),  # a disk that is not mounted
    ],
)
def test_what_is_news_alone_can_raise_the_alarm(
    failed: int, repeated: int, unreachable: int, rate: float, alarm: bool
) -> None:
    snapshot: Any = None
    landing = Landing(snapshot, 0, 0, 12, Counter(corrupt=failed), repeated, unreachable, 0)
    assert (landing.alarming > landing.allowed(rate)) is alarm
