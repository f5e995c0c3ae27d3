"""Several writers of one feature set at once, and writers that are killed: nothing that has landed is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import ModuleType

import pytest
from feature_sets import ROOT, WRITER, Adding, files, gone, ids, kill

from mgvr_core.errors import JobError, MgvrError
from mgvr_core.features.contents import Change
from mgvr_core.features.store import FeatureStore
from mgvr_core.features.verify import verify
from mgvr_core.identity import Fingerprint


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


MOMENTS = (
    "in the shard",
    "after the shard",
    "in the record",
    "after the record",
    "after the tables",
    "before the snapshot",
    "in the snapshot",
)


def grow_old(store: FeatureStore) -> None:
    for path in Path(store.url).rglob("*"):
        os.utime(path, (0, 0))


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
