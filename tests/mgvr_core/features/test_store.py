"""The feature set: whole versions, one after another, whoever else writes and whatever happens to the writers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Barrier
from types import ModuleType

import pyarrow as pa
import pytest

from mgvr_core.errors import JobError, MgvrError
from mgvr_core.features.contents import Change, Contents, Failure, Key, Place, ShardInfo, Source
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.features.verify import verify
from mgvr_core.identity import Fingerprint, hash_file

Table = Callable[..., pa.Table]
Adding = Callable[..., Change]

ROOT = Path(__file__).resolve().parents[3]
WRITER = Path(__file__).with_name("writer.py")
MADE_BY_WRITER = Fingerprint({"weights": "abc"})


def ids(snapshot: Snapshot) -> list[str]:
    return sorted(name for table in snapshot.tables(["id"]) for name in table.column("id").to_pylist())


def failed(key: Key, name: str | None = "v9") -> Failure:
    return Failure(key, name, "decode", "broken", "no frame", 1, "pyav", "2026-01-01T00:00:00+00:00")


def gone(store: FeatureStore, names: Iterable[str]) -> Change:
    return Change(gone=[source for source in store.contents().sources.values() if source.id in set(names)])


def files(store: FeatureStore) -> set[str]:
    """All files of a local set but the snapshots that gc has emptied."""
    root = Path(store.url)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.stat().st_size}


def test_what_is_committed_is_read(store: FeatureStore, adding: Adding, table: Table, fingerprint: Fingerprint) -> None:
    first, second = adding(store, 3), adding(store, 2, first=3)
    both = Change((*first.sources, *second.sources), shards=(*first.shards, *second.shards))
    snapshot = store.commit(fingerprint, both, {"run": "x"})
    again = store.snapshot()
    assert again == snapshot
    assert (again.number, again.rows, again.about) == (1, 5, {"run": "x"})
    assert again.fingerprint.digest == fingerprint.digest
    assert ids(again) == ["v0", "v1", "v2", "v3", "v4"]
    written = {shard.path: table(n, first=at) for shard, n, at in zip(both.shards, (3, 2), (0, 3), strict=True)}
    for shard in again.shards:
        # Its padding's timestamps are NaN, which equals nothing.
        rows = written[shard.path].drop_columns("timestamps")
        assert again.read_shard(shard).drop_columns("timestamps").equals(rows)
    assert again.sources() == {source.key: source for source in both.sources}


def test_an_older_version_stays_readable_by_its_number(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint
) -> None:
    store.commit(fingerprint, adding(store, 3), {})
    store.commit(fingerprint, adding(store, 2, first=3), {})
    assert store.numbers() == [1, 2]
    assert len(ids(store.snapshot())) == 5
    assert ids(store.snapshot(1)) == ["v0", "v1", "v2"]
    assert len(store.snapshot(1).sources()) == 3
    with pytest.raises(MgvrError, match=r"00000003\.json"):
        store.snapshot(3)


def test_a_shard_carries_the_hash_of_its_content_and_a_name_of_its_own(store: FeatureStore, table: Table) -> None:
    """A name that is used twice could be removed by a gc that has found it unneeded before the second use."""
    info, again = store.write_shard(table()), store.write_shard(table())
    file = Path(store.url) / info.path
    assert (info.rows, info.bytes, info.sha256) == (5, file.stat().st_size, hash_file(file))
    assert file.name.startswith(info.sha256[:24])
    assert again == replace(info, path=again.path)
    assert again.path != info.path


def test_shards_are_no_set_until_they_are_committed(store: FeatureStore, table: Table) -> None:
    store.write_shard(table())
    assert (store.latest(), store.contents()) == (0, Contents())
    with pytest.raises(MgvrError, match="holds no feature set"):
        store.snapshot()


def test_a_set_may_be_empty(store: FeatureStore, fingerprint: Fingerprint) -> None:
    assert ids(store.commit(fingerprint, Change(), {})) == []
    assert store.snapshot().rows == 0
    assert verify(store.snapshot()).problems == ()


def test_a_change_that_changes_nothing_makes_no_version(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint
) -> None:
    change = adding(store)
    first = store.commit(fingerprint, change, {})
    before = files(store)
    assert store.commit(fingerprint, change, {"another": "run"}) == first
    assert files(store) == before


def test_failures_are_kept_beside_the_features(store: FeatureStore, adding: Adding, fingerprint: Fingerprint) -> None:
    key = Key("clips", "clips/9.mp4", 1.0, 2.0)
    broken = Source(key, "v9", "9" * 64, 7, "mtime:1")
    store.commit(fingerprint, adding(store), {})
    snapshot = store.commit(fingerprint, Change([broken], failures=[failed(key)]), {})
    assert snapshot.rows == 5
    assert store.contents().failures == {key: failed(key)}
    assert snapshot.failed().to_pylist()[0] | {"uri": "clips/9.mp4", "start": 1.0} == snapshot.failed().to_pylist()[0]
    after = store.commit(fingerprint, gone(store, ["v9"]), {})
    assert (len(after.failed()), after.rows) == (0, 5)


def test_two_changes_of_the_same_version_both_land(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint
) -> None:
    first, second = adding(store, 3), adding(store, 2, first=3)
    assert store.commit(fingerprint, first, {}).number == 1
    assert store.commit(fingerprint, second, {}).number == 2
    assert ids(store.snapshot()) == ["v0", "v1", "v2", "v3", "v4"]


def test_of_many_writers_at_once_every_one_lands(store: FeatureStore, adding: Adding, fingerprint: Fingerprint) -> None:
    changes = [adding(store, 2, first=10 * i) for i in range(8)]
    start = Barrier(len(changes))

    def write(change: Change) -> int:
        start.wait()
        return store.commit(fingerprint, change, {}).number

    with ThreadPoolExecutor(len(changes)) as pool:
        numbers = list(pool.map(write, changes))
    assert sorted(numbers) == list(range(1, 9))
    assert ids(store.snapshot()) == sorted(str(source.id) for change in changes for source in change.sources)
    # Who lost a round has taken away what it made for it.
    assert files(store) == {name for number in numbers for name in store.snapshot(number).files()}


def race(url: str, count: int, between: Callable[[], object] | None = None) -> None:
    """Two writers, each of which commits `count` times; `between` is called again and again meanwhile."""
    writers = [
        subprocess.Popen([sys.executable, str(WRITER), "rounds", url, name, str(count)], cwd=ROOT)
        for name in ("one", "other")
    ]
    try:
        while between and any(writer.poll() is None for writer in writers):
            between()
        assert [writer.wait(300) for writer in writers] == [0, 0]
    finally:
        for writer in writers:
            writer.kill()


def require_all(store: FeatureStore, count: int) -> None:
    """Every round's videos of both writers but those that they have dropped themselves."""
    snapshot = store.snapshot()
    expected = sorted(
        f"{name}-{number}-{row}"
        for name in ("one", "other")
        for number in range(count)
        for row in range(2)
        if row == 1 or number == count - 1
    )
    assert ids(snapshot) == expected
    assert sorted(str(source.id) for source in snapshot.sources().values()) == expected
    assert len({source.place for source in snapshot.sources().values()}) == len(expected)
    assert verify(snapshot).problems == ()
    assert snapshot.number == 2 * count


def test_two_writers_at_once_lose_nothing_in_fifty_rounds(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "set")
    race(store.url, 50)
    require_all(store, 50)


def test_two_writers_at_once_lose_nothing_in_an_object_store(s3: str) -> None:
    store = FeatureStore(f"{s3}/features")
    store.require_writable()
    race(store.url, 8)
    require_all(store, 8)


def test_two_writers_and_a_reckless_gc_lose_nothing(tmp_path: Path) -> None:
    """gc without any regard to age takes work from under the writers' hands: they are told, and nothing that has
    landed is lost."""
    store = FeatureStore(tmp_path / "set")

    def collect() -> None:
        store.remove(store.rubbish(keep=1, older_than_s=0))
        time.sleep(0.05)  # without a pause no writer would ever finish a shard

    race(store.url, 25, collect)
    require_all(store, 25)


MOMENTS = (
    "in the shard",
    "after the shard",
    "in the record",
    "after the record",
    "after the tables",
    "before the snapshot",
    "in the snapshot",
)


def kill(store: FeatureStore, moment: str) -> None:
    arguments = [sys.executable, str(WRITER), "die", store.url, "killed", moment]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL


def grow_old(store: FeatureStore) -> None:
    for path in Path(store.url).rglob("*"):
        os.utime(path, (0, 0))


@pytest.fixture
def writer() -> ModuleType:
    """The writer's own functions, where no process of its own is wanted."""
    spec = spec_from_file_location("writer", WRITER)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sound(tmp_path: Path, writer: ModuleType) -> FeatureStore:
    """A set of what one round makes."""
    store = FeatureStore(tmp_path / "set")
    writer.rounds(store.url, "one", 1)
    return store


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_writer_that_is_killed_leaves_the_version_before(
    sound: FeatureStore, writer: ModuleType, moment: str, tmp_path: Path
) -> None:
    before = files(sound)
    kill(sound, moment)
    assert files(sound) > before
    assert sound.numbers() == [1]
    assert ids(sound.snapshot()) == ["one-0-0", "one-0-1"]
    assert verify(sound.snapshot()).problems == ()
    shutil.copytree(sound.url, tmp_path / "copy")

    # Young, what is left could be the work of a run under way; old, it goes, and nothing else.
    assert sound.rubbish(keep=1, older_than_s=3600).files == ()
    grow_old(sound)
    sound.remove(sound.rubbish(keep=1, older_than_s=3600))
    assert files(sound) == before == sound.snapshot().files()

    # And the same run lands.
    again = FeatureStore(tmp_path / "copy")
    writer.rounds(again.url, "killed", 1)
    assert ids(again.snapshot()) == ["killed-0-0", "killed-0-1", "one-0-0", "one-0-1"]
    again.remove(again.rubbish(keep=1, older_than_s=0))
    assert verify(again.snapshot()).problems == ()
    # But for a note that a commit was tried, which is rubbish a day later.
    assert {name for name in files(again) if not name.startswith("landing/")} == again.snapshot().files()


def test_a_writer_that_is_killed_after_the_snapshot_has_landed(sound: FeatureStore) -> None:
    kill(sound, "after the snapshot")
    assert sound.numbers() == [1, 2]
    assert ids(sound.snapshot()) == ["killed-0-0", "killed-0-1", "one-0-0", "one-0-1"]
    assert verify(sound.snapshot()).problems == ()


@pytest.mark.parametrize(("moment", "found"), [("in the record", 0), ("after the record", 1)])
def test_a_record_is_found_whole_or_not_at_all(sound: FeatureStore, moment: str, found: int) -> None:
    kill(sound, moment)
    records = sound.pending(MADE_BY_WRITER)
    assert [[name for name, _ in record.ids] for record in records] == [["killed-0-0", "killed-0-1"]] * found


def test_a_success_of_which_the_client_heard_nothing_is_no_defeat(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends the file once more and is told that it is there: NFS and S3 clients do so."""
    create = store.storage.create

    def twice(name: str, data: bytes) -> None:
        create(name, data)
        create(name, data)

    monkeypatch.setattr(store.storage, "create", twice)
    change = adding(store, 4)
    assert store.commit(fingerprint, change, {}).number == 1
    assert store.commit(fingerprint, gone(store, ["v0", "v1", "v2"]), {}).number == 2  # writes a shard anew
    assert ids(store.snapshot()) == ["v3"]
    assert verify(store.snapshot()).problems == ()


def test_a_store_that_fails_at_the_commit_fails_the_run_with_the_reason(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = adding(store)

    def full(name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.storage, "create", full)
    with pytest.raises(JobError, match=r"can't be written: .*No space left on device; what is done is not lost"):
        store.commit(fingerprint, change, {})
    monkeypatch.undo()
    assert store.commit(fingerprint, change, {}).rows == 5


def test_a_writer_that_never_wins_gives_up_and_says_so(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(name: str, data: bytes) -> None:
        raise FileExistsError(name)

    change = adding(store)
    # The snapshot of another, which no listing shows in time.
    (Path(store.url) / "snapshots").mkdir()
    (Path(store.url) / "snapshots" / "00000001.json").touch()
    monkeypatch.setattr(store.storage, "create", taken)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(JobError, match=r"other runs commit to .* without a pause"):
        store.commit(fingerprint, change, {})


def test_a_store_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MgvrError, match=r"file can't be read: .*Not a directory"):
        FeatureStore(tmp_path / "file").latest()


def test_features_made_otherwise_are_refused_part_by_part(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint
) -> None:
    store.commit(fingerprint, adding(store), {})
    other = Fingerprint(dict(fingerprint.parts) | {"activation": "gelu"})
    with pytest.raises(MgvrError, match=r"(?s)two fingerprints.*activation: .quickgelu. against .gelu.") as refusal:
        store.require_fingerprint(other)
    assert "sampling" not in str(refusal.value)
    with pytest.raises(MgvrError, match="activation"):
        store.commit(other, adding(store, 1, first=9), {})
    assert store.latest() == 1
    store.require_fingerprint(fingerprint)


def test_a_set_of_another_fingerprint_that_appears_meanwhile_is_refused(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two first runs with two models at once: one makes the set, the other is refused, however far it was."""
    other = Fingerprint({"weights": "other"})
    ours, theirs = adding(store, 2), Change()
    create = store.storage.create

    def second(name: str, data: bytes) -> None:
        monkeypatch.undo()
        FeatureStore(store.url).commit(other, theirs, {})
        create(name, data)

    monkeypatch.setattr(store.storage, "create", second)
    with pytest.raises(MgvrError, match=r"weights: .other. against .abc."):
        store.commit(fingerprint, ours, {})
    assert (store.latest(), store.snapshot().fingerprint, store.snapshot().rows) == (1, other, 0)


@pytest.mark.parametrize("lost", [3, 4])
def test_a_shard_of_which_less_than_half_is_left_is_written_anew(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint, lost: int
) -> None:
    before = store.commit(fingerprint, adding(store, 6), {})
    after = store.commit(fingerprint, gone(store, [f"v{i}" for i in range(lost)]), {})
    assert ids(after) == [f"v{i}" for i in range(lost, 6)]
    (old,), (new,) = before.shards, after.shards
    assert (new.path == old.path) is (lost == 3)
    assert (new.rows, new.removed) == ((6, (0, 1, 2)) if lost == 3 else (2, ()))
    kept, whole = after.read_shard(new), before.read_shard(old).slice(lost)
    assert kept.schema.equals(whole.schema, check_metadata=True)
    for name in kept.schema.names:
        if isinstance(kept.schema.field(name).type, pa.FixedShapeTensorType):  # bit for bit, NaN and all
            assert tensor_column(kept, name).tobytes() == tensor_column(whole, name).tobytes()
        else:
            assert kept[name].to_pylist() == whole[name].to_pylist()
    assert ids(before) == [f"v{i}" for i in range(6)]
    assert verify(after).problems == ()


def test_two_commits_that_write_the_same_shard_anew_lose_nothing_and_leave_nothing(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.commit(fingerprint, adding(store, 7), {})
    ours, theirs = gone(store, ["v0", "v1", "v2", "v3"]), gone(store, ["v1", "v2", "v3", "v4"])
    create = store.storage.create

    def second(name: str, data: bytes) -> None:
        monkeypatch.undo()
        FeatureStore(store.url).commit(fingerprint, theirs, {})
        create(name, data)

    monkeypatch.setattr(store.storage, "create", second)
    after = store.commit(fingerprint, ours, {})
    assert (after.number, ids(after)) == (3, ["v5", "v6"])
    assert verify(after).problems == ()
    assert files(store) == {name for number in (1, 2, 3) for name in store.snapshot(number).files()}


def test_a_shard_of_which_nothing_is_left_is_named_no_more(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint
) -> None:
    store.commit(fingerprint, adding(store, 2), {})
    store.commit(fingerprint, adding(store, 2, first=2), {})
    after = store.commit(fingerprint, gone(store, ["v0", "v1"]), {})
    assert (len(after.shards), ids(after)) == (1, ["v2", "v3"])


def test_a_duplicate_keeps_its_features_where_the_shard_is_written_anew(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint
) -> None:
    change = adding(store, 5)
    twin = replace(change.sources[4], key=Key("clips", "clips/twin.mp4"))
    store.commit(fingerprint, replace(change, sources=[*change.sources, twin]), {})
    after = store.commit(fingerprint, gone(store, ["v0", "v1", "v2"]), {})
    assert after.uris == {"v3": ["clips/3.mp4"], "v4": ["clips/4.mp4", "clips/twin.mp4"]}
    assert verify(after).problems == ()


def test_a_shard_that_must_be_written_anew_and_is_gone_stops_the_commit(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint
) -> None:
    snapshot = store.commit(fingerprint, adding(store, 5), {})
    change = gone(store, ["v0", "v1", "v2"])
    (Path(store.url) / snapshot.shards[0].path).unlink()
    with pytest.raises(JobError, match=re.escape(f"{snapshot.shards[0].path} is gone")):
        store.commit(fingerprint, change, {})
    assert store.latest() == 1


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


def test_a_newer_snapshot_is_refused(store: FeatureStore, adding: Adding, fingerprint: Fingerprint) -> None:
    store.commit(fingerprint, adding(store), {})
    file = Path(store.url) / "snapshots" / "00000001.json"
    document = json.loads(file.read_text())
    for newer in ({"schema_version": 4}, {"format_version": 3}):
        file.write_text(json.dumps(document | newer))
        with pytest.raises(MgvrError, match=r"00000001\.json has format .*: use a newer version of mgvr"):
            store.snapshot()
        with pytest.raises(MgvrError, match="use a newer version of mgvr"):
            store.commit(fingerprint, Change(), {})


def test_a_commit_after_a_source_pointed_nowhere_leaves_the_set_as_it_was(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint
) -> None:
    change = adding(store, 2)
    wrong = replace(change.sources[0], place=Place(change.shards[0].path, 2))
    with pytest.raises(MgvrError, match="points at row 2"):
        store.commit(fingerprint, replace(change, sources=[wrong, change.sources[1]]), {})
    assert store.latest() == 0


def test_the_manifest_of_a_version_says_what_it_holds(
    store: FeatureStore, adding: Adding, fingerprint: Fingerprint
) -> None:
    """Plain JSON, for those who read it without this program."""
    change = adding(store, 3)
    store.commit(fingerprint, change, {"model": "m"})
    document = json.loads((Path(store.url) / "snapshots" / "00000001.json").read_text())
    (shard,) = change.shards
    assert document["shards"] == [
        {"path": shard.path, "rows": 3, "bytes": shard.bytes, "sha256": shard.sha256, "removed": []}
    ]
    assert (document["format_version"], document["schema_version"], document["rows"]) == (2, 3, 3)
    assert document["fingerprint"] == dict(fingerprint.parts)
    assert ShardInfo.from_json(document["shards"][0]) == shard
    assert hash_file(Path(store.url) / document["sources"]["path"]) == document["sources"]["sha256"]
