"""gc removes what nothing needs, and nothing else: whoever reads, runs or commits meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest

from mgvr_core.errors import JobError, MgvrError
from mgvr_core.features.contents import Change, Failure, Key, Source
from mgvr_core.features.notices import notice, notices
from mgvr_core.features.rubbish import Rubbish
from mgvr_core.features.snapshot import Snapshot, snapshot_name
from mgvr_core.features.store import FeatureStore
from mgvr_core.features.verify import verify
from mgvr_core.identity import Fingerprint

Table = Callable[..., pa.Table]
Adding = Callable[..., Change]

HOUR = 3600.0


def files(store: FeatureStore) -> set[str]:
    root = Path(store.url)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.stat().st_size}


def age(store: FeatureStore, hours: float, names: Iterable[str] | None = None) -> None:
    """As if all of it, or some, had been written that long ago."""
    then = time.time() - hours * HOUR
    for name in files(store) if names is None else names:
        os.utime(Path(store.url) / name, (then, then))


def collect(store: FeatureStore, keep: int = 1, older_than_h: float = 24) -> Rubbish:
    rubbish = store.rubbish(keep, older_than_h * HOUR)
    store.remove(rubbish)
    return rubbish


@pytest.fixture
def versions(store: FeatureStore, adding: Adding, fingerprint: Fingerprint) -> list[Snapshot]:
    """Three: v0 to v4; v5 and v6 with them and a failure; v3 to v6 alone, for which the first shard is written anew."""
    store.commit(fingerprint, adding(store, 5), {})
    key = Key("clips", "clips/9.mp4")
    broken = Source(key, "v9", "9" * 64, 7, "mtime:1")
    failure = Failure(key, "v9", "decode", "broken", "no frame", 1, "pyav", "2026-01-01T00:00:00+00:00")
    change = adding(store, 2, first=5)
    store.commit(fingerprint, replace(change, sources=[*change.sources, broken], failures=[failure]), {})
    gone = [source for source in store.contents().sources.values() if source.id in ("v0", "v1", "v2")]
    store.commit(fingerprint, Change(gone=gone), {})
    return [store.snapshot(number) for number in (1, 2, 3)]


def test_files_that_are_not_ours_stay(store: FeatureStore, versions: list[Snapshot]) -> None:
    """A user may have chosen a folder that holds their videos, and those in one called `corpus`."""
    theirs = ["corpus/a.mp4", "corpus/list.parquet", "scratch/notes.txt", "shards/deadbeef.parquet"]
    for name in theirs:
        (Path(store.url) / name).parent.mkdir(exist_ok=True)
        (Path(store.url) / name).write_text("theirs")
    age(store, 48)
    store.remove(store.rubbish(1, 24 * HOUR))
    assert {name for name in files(store) if (Path(store.url) / name).read_text(errors="replace") == "theirs"} == {
        *theirs
    }


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_what_no_kept_version_names_goes_and_nothing_else(
    store: FeatureStore, versions: list[Snapshot], table: Table, keep: int
) -> None:
    store.write_shard(table(1, first=100))  # of a run that was killed
    (Path(store.url) / "scratch" / uuid4().hex).write_bytes(b"PAR1")
    age(store, 48)
    before, kept = files(store), versions[-keep:]
    needed = set().union(*(snapshot.files() for snapshot in kept))
    size = sum((Path(store.url) / name).stat().st_size for name in before - needed)
    rubbish = store.rubbish(keep, 24 * HOUR)
    assert files(store) == before  # until now it was only found
    store.remove(rubbish)
    assert files(store) == needed
    assert (set(rubbish.files), rubbish.bytes) == (before - needed, size)
    assert rubbish.kept == tuple(snapshot.number for snapshot in kept)
    assert store.numbers() == list(rubbish.kept)
    assert all(verify(store.snapshot(number)).problems == () for number in store.numbers())
    assert collect(store, keep).files == ()


def test_what_is_young_stays(store: FeatureStore, versions: list[Snapshot], table: Table) -> None:
    store.write_shard(table(1, first=100))
    before = files(store)
    rubbish = collect(store)
    assert (rubbish.files, rubbish.kept, files(store)) == ((), (1, 2, 3), before)


def test_a_version_stays_while_a_reader_may_still_be_at_it(store: FeatureStore, versions: list[Snapshot]) -> None:
    """It was current until another took its place, however old it is itself."""
    age(store, 48)
    age(store, 1, [snapshot_name(3)])
    assert collect(store).kept == (2, 3)
    assert verify(versions[1]).problems == ()


def test_a_version_that_is_gone_says_so(store: FeatureStore, versions: list[Snapshot]) -> None:
    collect(store, older_than_h=0)
    with pytest.raises(MgvrError, match=r"snapshot 1 of .* is there no more: mgvr corpus gc has removed it"):
        store.snapshot(1)
    assert store.snapshot().number == 3


def test_unfinished_work_is_spared_as_a_whole_while_it_grows(
    store: FeatureStore, versions: list[Snapshot], table: Table, fingerprint: Fingerprint
) -> None:
    """The first shards of a run that takes days are old when its last is written."""
    shards = [store.write_shard(table(1, first=at)) for at in (100, 101)]
    first, second = (store.record(fingerprint, shard, [(shard.path, "0")]) for shard in shards)
    age(store, 48)
    age(store, 1, [second])
    collect(store)
    assert [record.shard for record in store.pending(fingerprint)] == [
        shard for _, shard in sorted(zip((first, second), shards, strict=True))
    ]


def test_unfinished_work_that_a_run_takes_up_is_young_again(
    store: FeatureStore, versions: list[Snapshot], table: Table, fingerprint: Fingerprint
) -> None:
    """Killed before the weekend, run again after it, while gc runs by the clock."""
    for first in (100, 101):
        store.record(fingerprint, store.write_shard(table(1, first=first)), [(f"v{first}", "0")])
    age(store, 48)
    taken = store.pending(fingerprint)
    store.renew(taken)
    collect(store)
    assert store.pending(fingerprint) == taken
    store.settle(taken)
    store.renew(taken)  # another run was faster
    assert store.pending(fingerprint) == []


def test_unfinished_work_that_nobody_takes_up_goes(
    store: FeatureStore, versions: list[Snapshot], table: Table, fingerprint: Fingerprint
) -> None:
    store.record(fingerprint, store.write_shard(table(1, first=100)), [("v100", "0")])
    store.record(fingerprint, None, [], [])
    age(store, 48)
    collect(store)
    assert store.pending(fingerprint) == []
    assert files(store) == versions[-1].files()


def test_an_object_store_is_tidied_like_a_folder(s3: str, adding: Adding, fingerprint: Fingerprint) -> None:
    store = FeatureStore(f"{s3}/set")
    store.commit(fingerprint, adding(store, 2), {})
    store.commit(fingerprint, Change(gone=list(store.contents().sources.values())), {})
    needed = store.commit(fingerprint, adding(store, 3, first=2), {}).files()
    time.sleep(1.1)  # S3 tells the age of a file in whole seconds
    collect(store, older_than_h=0)
    left = {
        entry.name
        for folder in ("shards", "corpus", "snapshots", "landing", "leaving")
        for entry in store.storage.entries(folder)
        if entry.bytes
    }
    assert left == needed
    assert store.numbers() == [3]
    assert verify(store.snapshot()).problems == ()


# What happens between two steps of another: each of these lost rows once, on paper or in a test.


def test_what_is_committed_after_gc_has_looked_stays(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint
) -> None:
    """Old work of a killed run, which a run takes up just as gc finds it."""
    change = adding(store, 2)
    age(store, 48)
    rubbish = store.rubbish(1, 24 * HOUR)
    assert rubbish.files == (change.shards[0].path,)
    snapshot = store.commit(fingerprint, change, {})
    store.remove(rubbish)
    assert verify(snapshot).problems == ()
    assert snapshot.rows == 2


def test_what_is_about_to_be_committed_stays(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = adding(store, 2)
    create = store.storage.create

    def between(name: str, data: bytes) -> None:
        monkeypatch.undo()
        age(store, 20)  # of the files alone: a notice of today still stands
        collect(FeatureStore(store.url), older_than_h=10)
        create(name, data)

    monkeypatch.setattr(store.storage, "create", between)
    snapshot = store.commit(fingerprint, change, {})
    assert verify(snapshot).problems == ()


def test_a_commit_is_told_that_its_work_is_just_being_removed(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint
) -> None:
    store.commit(fingerprint, adding(store, 1), {})
    change = adding(store, 2, first=1)
    store.record(fingerprint, change.shards[0], [("v1", "1"), ("v2", "2")])
    with notice(store.storage, "leaving", [change.shards[0].path]):
        with pytest.raises(JobError, match="is gone: mgvr corpus gc has removed it, or is about to"):
            store.commit(fingerprint, change, {})
        assert store.pending(fingerprint) == []  # the next run does not count on it
    assert store.latest() == 1
    assert store.commit(fingerprint, change, {}).rows == 3


def test_a_commit_that_begins_while_gc_removes_is_told(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc has looked and goes on: what it is about to remove, nobody may name any more."""
    before = store.commit(fingerprint, adding(store, 1), {})
    change = adding(store, 2, first=1)
    age(store, 48)
    unlink = store.storage.remove

    def between(name: str) -> None:
        monkeypatch.undo()
        with pytest.raises(JobError, match="is gone"):
            FeatureStore(store.url).commit(fingerprint, change, {})
        unlink(name)

    monkeypatch.setattr(store.storage, "remove", between)
    assert collect(store).files == (change.shards[0].path,)
    assert store.snapshot() == before
    assert verify(before).problems == ()


def test_a_commit_whose_work_is_removed_before_it_lands_is_told(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc begins and ends between the start of the commit and its notice."""
    change = adding(store, 2)
    put = store.storage.put

    def between(name: str, data: bytes) -> None:
        monkeypatch.undo()
        collect(FeatureStore(store.url), older_than_h=0)
        put(name, data)

    monkeypatch.setattr(store.storage, "put", between)
    with pytest.raises(JobError, match="is gone"):
        store.commit(fingerprint, change, {})
    assert store.latest() == 0


def test_a_commit_that_slept_through_others_and_gc_lands_on_top_of_them(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number was free, taken, and removed again: a second use would be a version of the past, and lost."""
    store.commit(fingerprint, adding(store, 1), {})
    change = adding(store, 1, first=10)
    create = store.storage.create

    def asleep(name: str, data: bytes) -> None:
        monkeypatch.undo()
        other = FeatureStore(store.url)
        for first in (1, 2, 3):
            other.commit(fingerprint, adding(other, 1, first=first), {})
        age(other, 48, files(other) - {change.shards[0].path})
        collect(other)
        assert other.numbers() == [4]
        create(name, data)

    monkeypatch.setattr(store.storage, "create", asleep)
    snapshot = store.commit(fingerprint, change, {})
    assert snapshot.number == 5 == store.latest()
    assert sorted(source.id for source in snapshot.sources().values()) == ["v0", "v1", "v10", "v2", "v3"]
    assert verify(snapshot).problems == ()


def test_a_commit_whose_parent_is_removed_while_it_reads_goes_on_from_the_next(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(fingerprint, adding(store, 1), {})
    change = adding(store, 1, first=10)
    read = store.storage.read

    def late(name: str) -> bytes:
        monkeypatch.undo()
        other = FeatureStore(store.url)
        other.commit(fingerprint, adding(other, 1, first=1), {})
        age(other, 48, files(other) - {change.shards[0].path})
        assert collect(other).kept == (2,)
        return read(name)

    monkeypatch.setattr(store.storage, "read", late)
    snapshot = store.commit(fingerprint, change, {})
    assert (snapshot.number, snapshot.rows) == (3, 3)


def test_a_version_that_can_not_be_read_stops_gc(store: FeatureStore, versions: list[Snapshot]) -> None:
    """What it names is not known, so nothing may go."""
    (Path(store.url) / snapshot_name(3)).write_text("{")
    before = files(store)
    with pytest.raises(MgvrError, match=r"snapshot 3 of .* can't be read"):
        collect(store, older_than_h=0)
    assert files(store) == before


def test_a_notice_is_over_with_its_block(store: FeatureStore) -> None:
    with notice(store.storage, "landing", ["b", "a"], 7):
        assert [(found.number, sorted(found.files)) for found in notices(store.storage, "landing")] == [(7, ["a", "b"])]
        assert notices(store.storage, "leaving") == []
    assert notices(store.storage, "landing") == []
    with pytest.raises(ZeroDivisionError), notice(store.storage, "landing", []):
        _ = 1 / 0
    assert notices(store.storage, "landing") == []


def test_the_notice_of_a_killed_process_stands_for_a_day_and_is_rubbish_then(store: FeatureStore) -> None:
    killed = notice(store.storage, "leaving", ["shards/a.parquet"])
    killed.__enter__()
    age(store, 23)
    assert len(notices(store.storage, "leaving")) == 1
    assert collect(store, older_than_h=0).files == ()
    age(store, 25)
    assert notices(store.storage, "leaving") == []
    assert len(collect(store, older_than_h=0).files) == 1
    assert files(store) == set()


def test_a_commit_that_was_killed_protects_its_files_only_until_another_has_its_number(
    store: FeatureStore, adding: Adding, table: Table, fingerprint: Fingerprint
) -> None:
    orphan = store.write_shard(table(1, first=50)).path
    killed = notice(store.storage, "landing", [orphan], 1)
    killed.__enter__()
    collect(store, older_than_h=0)
    assert orphan in files(store)
    store.commit(fingerprint, adding(store, 1), {})
    collect(store, older_than_h=0)
    assert orphan not in files(store)
    assert verify(store.snapshot()).problems == ()
