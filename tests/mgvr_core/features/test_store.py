"""The feature set on disk: whole versions, one after another, whatever happens to their writers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mgvr_core.errors import MgvrError
from mgvr_core.features.store import FAILURE_SCHEMA, FeatureStore, ShardInfo, Snapshot
from mgvr_core.identity import Fingerprint, hash_file

Table = Callable[..., pa.Table]

ROOT = Path(__file__).resolve().parents[3]

FINGERPRINT = Fingerprint({"weights": "abc", "activation": "quickgelu", "sampling": {"frames": 3, "fps": 1.0}})


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


def commit(store: FeatureStore, shards: list[ShardInfo], **changes: object) -> Snapshot:
    values = {"parent": store.latest(), "fingerprint": FINGERPRINT, "failures": [], "about": {}} | changes
    return store.commit(shards=shards, **values)


def ids(snapshot: Snapshot) -> list[str]:
    return [name for table in snapshot.tables(["id"]) for name in table.column("id").to_pylist()]


def test_what_is_committed_is_read(store: FeatureStore, table: Table) -> None:
    snapshot = commit(store, [store.write_shard(table(3)), store.write_shard(table(2, first=3))], about={"run": "x"})
    again = store.snapshot()
    assert again == snapshot
    assert (again.number, again.rows, again.about) == (1, 5, {"run": "x"})
    assert again.fingerprint.digest == FINGERPRINT.digest
    assert ids(again) == ["v0", "v1", "v2", "v3", "v4"]
    for whole, n, first in zip(again.tables(), (3, 2), (0, 3), strict=True):
        written = table(n, first=first)  # its padding's timestamps are NaN, which equals nothing
        assert whole.drop_columns("timestamps").equals(written.drop_columns("timestamps"))


def test_an_older_version_stays_readable_by_its_number(store: FeatureStore, table: Table) -> None:
    first = store.write_shard(table(3))
    commit(store, [first])
    commit(store, [first, store.write_shard(table(2, first=3))])
    assert store.latest() == 2
    assert len(ids(store.snapshot())) == 5
    assert ids(store.snapshot(1)) == ["v0", "v1", "v2"]
    with pytest.raises(MgvrError, match=r"00000003\.json"):
        store.snapshot(3)


def test_a_shard_is_named_by_its_content(store: FeatureStore, table: Table) -> None:
    info = store.write_shard(table())
    file = store.root / info.path
    assert (info.rows, info.bytes, info.sha256) == (5, file.stat().st_size, hash_file(file))
    assert file.stem == info.sha256[:32]
    assert store.write_shard(table()) == info
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_shards_are_no_set_until_they_are_committed(store: FeatureStore, table: Table) -> None:
    store.write_shard(table())
    assert store.latest() == 0
    with pytest.raises(MgvrError, match="holds no feature set"):
        store.snapshot()


def test_a_set_may_be_empty(store: FeatureStore, table: Table) -> None:
    assert ids(commit(store, [])) == []
    assert ids(commit(store, [store.write_shard(table(0))])) == []
    assert store.snapshot().rows == 0


def test_the_second_of_two_writers_is_told_and_changes_nothing(store: FeatureStore, table: Table) -> None:
    parent = store.latest()
    commit(store, [store.write_shard(table(3))], parent=parent)
    with pytest.raises(MgvrError, match=r"another run has committed 00000001\.json"):
        commit(store, [store.write_shard(table(2, first=3))], parent=parent)
    assert ids(store.snapshot()) == ["v0", "v1", "v2"]
    assert [path.name for path in (store.root / "snapshots").iterdir()] == ["00000001.json"]


def test_of_many_writers_at_once_exactly_one_wins(store: FeatureStore, table: Table) -> None:
    shards = [store.write_shard(table(2, first=10 * i)) for i in range(8)]
    start = Barrier(len(shards))

    def write(shard: ShardInfo) -> bool:
        start.wait()
        try:
            commit(store, [shard], parent=0)
        except MgvrError:
            return False
        return True

    with ThreadPoolExecutor(len(shards)) as pool:
        won = list(pool.map(write, shards))
    assert sum(won) == 1
    assert store.snapshot().shards == (shards[won.index(True)],)


KILLED = """
import os, signal, sys
from pathlib import Path
import pyarrow.parquet as pq
from mgvr_core.features.schema import fingerprint_of
from mgvr_core.features.store import FeatureStore

root, source, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store, table = FeatureStore(root), pq.read_table(source)
if moment == "while the shard is written":
    pq.write_table = lambda table, where, **options: (where.write_bytes(b"PAR1 half"), die())
shard = store.write_shard(table)
if moment == "before the commit":
    die()
os.link = die
store.commit(store.latest(), fingerprint_of(table.schema, ""), [shard], [], {})
"""


@pytest.mark.parametrize("moment", ["while the shard is written", "before the commit", "within the commit"])
def test_a_writer_that_is_killed_leaves_the_version_before(
    store: FeatureStore, table: Table, tmp_path: Path, moment: str
) -> None:
    first = store.write_shard(table(3))
    commit(store, [first])
    pq.write_table(table(2, first=3), tmp_path / "more.parquet")
    arguments = [sys.executable, "-c", KILLED, str(store.root), str(tmp_path / "more.parquet"), moment]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert store.latest() == 1
    assert ids(store.snapshot()) == ["v0", "v1", "v2"]
    commit(store, [first, store.write_shard(table(2, first=3))])
    assert ids(store.snapshot()) == ["v0", "v1", "v2", "v3", "v4"]


def test_features_made_otherwise_are_refused_part_by_part(store: FeatureStore, table: Table) -> None:
    commit(store, [store.write_shard(table())])
    other = Fingerprint(dict(FINGERPRINT.parts) | {"activation": "gelu"})
    with pytest.raises(MgvrError, match=r"(?s)two fingerprints.*activation: .quickgelu. against .gelu.") as refusal:
        store.require_fingerprint(other)
    assert "sampling" not in str(refusal.value)
    with pytest.raises(MgvrError, match="activation"):
        commit(store, [store.write_shard(table(fingerprint=other))], fingerprint=other)
    assert store.latest() == 1
    store.require_fingerprint(FINGERPRINT)


def test_a_shard_of_another_set_is_refused_when_it_is_read(store: FeatureStore, table: Table) -> None:
    other = Fingerprint(dict(FINGERPRINT.parts) | {"weights": "xyz"})
    snapshot = commit(store, [store.write_shard(table(fingerprint=other))])
    with pytest.raises(MgvrError, match=r"does not belong to snapshot 1: weights: .abc. against .xyz."):
        ids(snapshot)


def test_a_foreign_file_in_the_place_of_a_shard_is_refused(store: FeatureStore, table: Table) -> None:
    snapshot = commit(store, [store.write_shard(table())])
    file = store.root / snapshot.shards[0].path
    pq.write_table(pa.table({"id": ["a"]}), file)
    with pytest.raises(MgvrError, match=f"{file.name} is not a feature shard"):
        ids(snapshot)


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_shard_is_named(store: FeatureStore, table: Table, damage: str) -> None:
    snapshot = commit(store, [store.write_shard(table())])
    file = store.root / snapshot.shards[0].path
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    else:
        file.unlink()
    with pytest.raises(MgvrError, match=f"{file.name} of snapshot 1 can't be read"):
        ids(snapshot)


def test_a_column_that_the_set_has_not_is_named(store: FeatureStore, table: Table) -> None:
    snapshot = commit(store, [store.write_shard(table())])
    with pytest.raises(MgvrError, match="captions"):
        snapshot.read_shard(snapshot.shards[0], ["id", "captions"])


def test_a_newer_snapshot_is_refused(store: FeatureStore, table: Table) -> None:
    commit(store, [store.write_shard(table())])
    file = store.root / "snapshots" / "00000001.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 2}))
    with pytest.raises(MgvrError, match="schema version 2: use a newer version"):
        store.snapshot()


def test_failures_are_kept_beside_the_features(store: FeatureStore, table: Table) -> None:
    names = FAILURE_SCHEMA.names
    rows = [
        ("a", "a.mp4", 1.0, 2.0, "decode", "no frames", "0 of 12 frames", "pyav"),
        (None, "b.mp4", None, None, "read", "missing", "no such file", "pyav"),
    ]
    failures = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=FAILURE_SCHEMA)
    snapshot = commit(store, [store.write_shard(table())], failures=[store.write_failures(failures)])
    assert store.snapshot().failed().equals(failures)
    assert snapshot.rows == 5
    assert commit(store, []).failed().equals(FAILURE_SCHEMA.empty_table())
