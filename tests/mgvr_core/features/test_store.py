"""The feature set: whole versions, one after another, and what a commit makes of the shards."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from feature_sets import Adding, Table, failed, files, gone, ids, uris_of

from mgvr_core.errors import JobError, MgvrError
from mgvr_core.features.contents import Change, Contents, Key, Place, ShardInfo, Source
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.store import FeatureStore
from mgvr_core.features.verify import verify
from mgvr_core.identity import Fingerprint, hash_file


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
    assert uris_of(after) == {"v3": ["clips/3.mp4"], "v4": ["clips/4.mp4", "clips/twin.mp4"]}
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
