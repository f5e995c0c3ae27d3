"""Records of work that is done and not yet committed: found whole, once, and by the runs that can use it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from feature_sets import Adding, Table, failed, kill

from mgvr_core.errors import JobError
from mgvr_core.features.contents import Key
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint

MADE_BY_WRITER = Fingerprint({"weights": "abc"})
IDS = [("v0", "0" * 64), ("v1", "1" * 64)]


def test_a_record_gives_back_what_was_finished(store: FeatureStore, table: Table, fingerprint: Fingerprint) -> None:
    shard = store.write_shard(table(2))
    failures = [("9" * 64, failed(Key("clips", "clips/9.mp4", 1.5, None))), ("8" * 64, failed(Key("c", "ü"), None))]
    first = store.record(fingerprint, shard, IDS, failures)
    second = store.record(fingerprint, None, [], failures[:1])
    assert store.latest() == 0
    found = {record.name: record for record in store.pending(fingerprint)}
    assert found.keys() == {first, second}
    assert (found[first].shard, found[first].ids, found[first].failures) == (shard, tuple(IDS), tuple(failures))
    assert (found[second].shard, found[second].ids, found[second].failures) == (None, (), tuple(failures[:1]))
    store.settle([found[first]])
    assert [record.name for record in store.pending(fingerprint)] == [second]
    store.settle([found[first], found[second]])
    assert store.pending(fingerprint) == []


def test_work_of_another_fingerprint_is_not_taken_up(
    store: FeatureStore, table: Table, fingerprint: Fingerprint
) -> None:
    store.record(fingerprint, store.write_shard(table(2)), IDS)
    assert store.pending(Fingerprint({**fingerprint.parts, "weights": "xyz"})) == []
    assert len(store.pending(fingerprint)) == 1


def test_a_record_that_another_run_settles_meanwhile_is_passed_over(
    store: FeatureStore, table: Table, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in (0, 2):
        store.record(
            fingerprint, store.write_shard(table(2, first=first)), [(f"v{first}", "0"), (f"v{first + 1}", "1")]
        )
    read = store.storage.read
    settled: list[str] = []

    def late(name: str) -> bytes:
        if not settled:
            settled.append(name)
            store.storage.remove(name)
        return read(name)

    monkeypatch.setattr(store.storage, "read", late)
    assert [record.name for record in store.pending(fingerprint)] != settled
    assert len(store.pending(fingerprint)) == 1


def test_work_whose_shard_is_gone_is_done_again(
    store: FeatureStore, adding: Adding, table: Table, fingerprint: Fingerprint
) -> None:
    """A run that took it up would fail at the commit, and so would every run after it."""
    change = adding(store, 2)
    (shard,) = change.shards
    store.record(fingerprint, shard, IDS, [("9" * 64, failed(Key("clips", "clips/9.mp4")))])
    kept = store.record(fingerprint, store.write_shard(table(2, first=2)), IDS)
    (Path(store.url) / shard.path).unlink()
    assert [record.name for record in store.pending(fingerprint)] == [kept]
    with pytest.raises(JobError, match=re.escape(f"{shard.path} is gone: mgvr corpus gc")):
        store.commit(fingerprint, change, {})
    assert store.latest() == 0


@pytest.mark.parametrize(("moment", "found"), [("in the record", 0), ("after the record", 1)])
def test_a_record_is_found_whole_or_not_at_all(sound: FeatureStore, moment: str, found: int) -> None:
    kill(sound, moment)
    records = sound.pending(MADE_BY_WRITER)
    assert [[name for name, _ in record.ids] for record in records] == [["killed-0-0", "killed-0-1"]] * found
