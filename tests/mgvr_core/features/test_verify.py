"""Verifying finds what is wrong with a set, whatever it is, and nothing in a sound one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mgvr_core.features import contents
from mgvr_core.features.contents import Change, Contents, Failure, Key, Place, ShardInfo, Source
from mgvr_core.features.schema import FeatureShape, build_table, feature_schema
from mgvr_core.features.snapshot import FileInfo, Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.features.verify import verify
from mgvr_core.identity import Fingerprint, hash_file

Table = Callable[..., pa.Table]
Adding = Callable[..., Change]
Columns = Callable[..., dict[str, Any]]

SHAPE = FeatureShape(frames=3, dim=4, patches=2)
FIRST_VECTOR = {"video": (1,), "frames": (1, 0), "temporal": (1, 0), "patches": (1, 0, 0)}
"""Of the second row."""


@pytest.fixture
def snapshot(store: FeatureStore, adding: Adding, fingerprint: Fingerprint) -> Snapshot:
    """v0 to v4 and v5 to v7 in two shards, but for v1, which is gone; a failure; a duplicate."""
    key = Key("clips", "clips/9.mp4")
    first, second = adding(store, 5), adding(store, 3, first=5)
    twin = replace(first.sources[0], key=Key("clips", "clips/twin.mp4"))
    broken = Source(key, "v9", "9" * 64, 1, "mtime:1")
    failure = Failure(key, "v9", "decode", "broken", "no frame", 1, "pyav", "2026-01-01T00:00:00+00:00")
    change = Change([*first.sources, twin, broken], failures=[failure], shards=first.shards)
    store.commit(fingerprint, change, {})
    store.commit(fingerprint, second, {})
    return store.commit(fingerprint, Change(gone=[first.sources[1]]), {})


def problems(snapshot: Snapshot) -> list[str]:
    return list(verify(snapshot).problems)


def shard_of(snapshot: Snapshot, name: str) -> ShardInfo:
    place = next(source.place for source in snapshot.sources().values() if source.id == name)
    return next(shard for shard in snapshot.shards if place and shard.path == place.shard)


def put(snapshot: Snapshot, shard: ShardInfo, table: pa.Table) -> Snapshot:
    """The snapshot with other rows in the place of a shard's, and their true hash."""
    file = Path(snapshot.url) / shard.path
    pq.write_table(table, file, compression="none")
    changed = replace(shard, sha256=hash_file(file), rows=len(table))
    return replace(snapshot, shards=tuple(changed if info == shard else info for info in snapshot.shards))


def listing(snapshot: Snapshot, head: Contents) -> Snapshot:
    """The snapshot with another list of sources."""
    assert snapshot.sources_file
    table = contents.source_table(head.sources.values())
    file = Path(snapshot.url) / "corpus" / "other.parquet"
    pq.write_table(table, file)
    return replace(snapshot, sources_file=FileInfo("corpus/other.parquet", len(table), hash_file(file)))


def test_a_sound_set_has_no_problem_and_is_read_whole(snapshot: Snapshot) -> None:
    reported: list[int] = []
    found = verify(snapshot, reported.append)
    assert (found.problems, found.shards, found.rows) == ((), 2, 7)
    assert sorted(reported) == [3, 4]


def test_a_sound_set_in_an_object_store_has_no_problem(s3: str, adding: Adding, fingerprint: Fingerprint) -> None:
    store = FeatureStore(s3)
    assert problems(store.commit(fingerprint, adding(store), {})) == []


@pytest.mark.parametrize("where", ["shard", "sources", "failures"])
def test_a_changed_byte_is_found(snapshot: Snapshot, where: str) -> None:
    assert snapshot.sources_file
    paths = {
        "shard": snapshot.shards[1].path,
        "sources": snapshot.sources_file.path,
        "failures": snapshot.failure_files[0].path,
    }
    file = Path(snapshot.url) / paths[where]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # in Parquet's closing mark
    file.write_bytes(data)
    found = problems(snapshot)
    assert f"{paths[where]} has been changed: its SHA-256 is {hash_file(file)[:16]}…" in found[0]


def test_one_flipped_bit_in_one_feature_is_found(snapshot: Snapshot, columns: Columns) -> None:
    """One that leaves a file that reads well, with a vector of almost unit length."""
    shard = shard_of(snapshot, "v5")
    file = Path(snapshot.url) / shard.path
    bits = np.asarray(columns(3, first=5)["video"][1], np.float16).tobytes()
    data = file.read_bytes()
    assert data.count(bits) == 1
    file.write_bytes(data.replace(bits, bytes([bits[0] ^ 1]) + bits[1:]))
    assert len(problems(snapshot)) == 1
    assert f"{shard.path} has been changed" in problems(snapshot)[0]


@pytest.mark.parametrize("name", ["shard", "sources", "failures"])
def test_a_missing_file_is_found(snapshot: Snapshot, name: str) -> None:
    assert snapshot.sources_file
    paths = {
        "shard": snapshot.shards[0].path,
        "sources": snapshot.sources_file.path,
        "failures": snapshot.failure_files[0].path,
    }
    (Path(snapshot.url) / paths[name]).unlink()
    found = verify(snapshot)
    assert f"{paths[name]} can't be read" in found.problems[0]
    assert all(paths[name] in line for line in found.problems)  # no other is blamed for it
    assert found.rows == (7 if name != "shard" else 7 - snapshot.shards[0].live)


@pytest.mark.parametrize("column", FIRST_VECTOR)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_no_number_is_found(snapshot: Snapshot, table: Table, column: str, value: float) -> None:
    broken = overwritten(table(3, first=5), column, FIRST_VECTOR[column], value)
    shard = shard_of(snapshot, "v6")
    found = problems(put(snapshot, shard, broken))
    assert f"{shard.path}: {column} of v6 holds NaN or infinity" in found


@pytest.mark.parametrize("column", FIRST_VECTOR)
def test_a_vector_that_is_not_of_unit_length_is_found(snapshot: Snapshot, table: Table, column: str) -> None:
    broken = overwritten(table(3, first=5), column, FIRST_VECTOR[column], 0.9)
    shard = shard_of(snapshot, "v6")
    assert problems(put(snapshot, shard, broken)) == [f"{shard.path}: {column} of v6 is not of unit length"]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0, -1])
def test_a_length_of_a_frame_that_is_none_is_found(snapshot: Snapshot, table: Table, value: float) -> None:
    broken = overwritten(table(3, first=5), "frame_norms", (1, 0), value)
    shard = shard_of(snapshot, "v6")
    found = problems(put(snapshot, shard, broken))
    assert found == [f"{shard.path}: frame_norms of v6 holds what is no length"]


def test_lengths_that_were_not_kept_are_no_problem_and_hide_none(snapshot: Snapshot, table: Table) -> None:
    """Of three videos the first has none, as an older program left it."""
    rows = overwritten(table(3, first=5), "frame_norms", (2, 0), -1)
    at = rows.schema.names.index("frame_norms")
    lengths = rows["frame_norms"].to_pylist()

    def told(*values: Any) -> list[str]:
        field = rows.schema.field(at)
        flat = pa.array(values, field.type.storage_type)
        column = pa.ExtensionArray.from_storage(field.type, flat)
        return problems(put(snapshot, shard_of(snapshot, "v6"), rows.set_column(at, field, column)))

    path = shard_of(snapshot, "v6").path
    assert told(None, *lengths[1:]) == [f"{path}: frame_norms of v7 holds what is no length"]
    assert told(None, lengths[1], None) == told(None, None, None) == []


def test_a_feature_that_is_missing_is_found(snapshot: Snapshot, table: Table) -> None:
    rows = table(3, first=5)
    at, shard = rows.schema.names.index("video"), shard_of(snapshot, "v6")
    field = rows.schema.field(at).with_nullable(True)
    column = pa.ExtensionArray.from_storage(field.type, pa.nulls(3, field.type.storage_type))
    assert problems(put(snapshot, shard, rows.set_column(at, field, column))) == [
        f"{shard.path}: video is null in 3 rows"
    ]


def overwritten(table: pa.Table, column: str, where: tuple[int | slice, ...], value: float) -> pa.Table:
    """The table with another value in some places of a tensor column (n, …)."""
    index = table.schema.names.index(column)
    field = table.schema.field(index)
    tensor = table.column(index).combine_chunks().to_numpy_ndarray().copy()
    tensor[where] = value
    flat = pa.array(tensor.reshape(-1), field.type.value_type)
    width = int(np.prod(tensor.shape[1:]))
    values = pa.ExtensionArray.from_storage(field.type, pa.FixedSizeListArray.from_arrays(flat, width))
    return table.set_column(index, field, values)


def test_what_a_padded_frame_holds_is_no_problem(snapshot: Snapshot, table: Table) -> None:
    rows = table(3, first=5)
    for column in ("frames", "frame_norms", "temporal", "patches"):
        rows = overwritten(rows, column, (slice(None), -1), 0)  # the last frame of each is padding
    assert problems(put(snapshot, shard_of(snapshot, "v6"), rows)) == []


def test_a_video_without_a_frame_is_found(snapshot: Snapshot, columns: Columns, fingerprint: Fingerprint) -> None:
    values = columns(3, first=5)
    values["mask"][2] = False
    shard = shard_of(snapshot, "v7")
    rows = build_table(values, feature_schema(SHAPE, fingerprint))
    assert problems(put(snapshot, shard, rows)) == [f"{shard.path}: v7 has no frame"]


def test_an_id_that_is_there_twice_is_found(snapshot: Snapshot, columns: Columns, fingerprint: Fingerprint) -> None:
    values = columns(3, first=5)
    values["id"][0] = "v3"
    shard, owner = shard_of(snapshot, "v5"), shard_of(snapshot, "v3")
    rows = build_table(values, feature_schema(SHAPE, fingerprint))
    found = problems(put(snapshot, shard, rows))
    first, second = sorted([shard.path, owner.path])
    assert f"{second}: the id v3 is in {first} already" in found
    assert f"{shard.path}, row 0: v3 is not what the list of sources says it is" in found


def test_a_row_that_no_source_names_is_found(snapshot: Snapshot) -> None:
    head = snapshot.contents()
    shard = shard_of(snapshot, "v5")
    without = {key: source for key, source in head.sources.items() if source.id != "v5"}
    found = problems(listing(snapshot, replace(head, sources=without)))
    assert found == [f"{shard.path}, row 0: v5 is not what the list of sources says it is"]


def test_a_source_of_a_row_that_is_no_part_of_the_set_is_found(snapshot: Snapshot) -> None:
    head = snapshot.contents()
    shard = shard_of(snapshot, "v0")
    removed = Source(Key("clips", "clips/1.mp4"), "v1", "1" * 64, 1, "mtime:1", Place(shard.path, 1))
    found = problems(listing(snapshot, replace(head, sources={**head.sources, removed.key: removed})))
    assert found == [f"{shard.path}: a source points at row 1, which is no part of the set"]


@pytest.mark.parametrize("wrong", ["clips/0.mp4", "clips/twin.mp4"])
@pytest.mark.parametrize("change", [{"id": "other"}, {"content_hash": "f" * 64}])
def test_two_sources_that_disagree_about_a_row_are_found(
    snapshot: Snapshot, wrong: str, change: dict[str, str]
) -> None:
    head = snapshot.contents()
    source = replace(head.sources[Key("clips", wrong)], **change)
    found = problems(listing(snapshot, replace(head, sources={**head.sources, source.key: source})))
    path = source.place and source.place.shard
    assert found == [f"{path}, row 0: v0 is not what the list of sources says it is"]


def test_a_video_that_is_neither_encoded_nor_failed_is_found(snapshot: Snapshot) -> None:
    assert problems(replace(snapshot, failure_files=())) == ["clips/9.mp4 is neither encoded nor among the failures"]


def test_a_shard_of_another_fingerprint_is_found(snapshot: Snapshot, table: Table, fingerprint: Fingerprint) -> None:
    shard = shard_of(snapshot, "v5")
    other = Fingerprint({**fingerprint.parts, "weights": "xyz"})
    (line,) = problems(put(snapshot, shard, table(3, first=5, fingerprint=other)))
    assert "does not belong to snapshot 3: weights" in line


@pytest.fixture
def first_row(snapshot: Snapshot) -> Callable[[ShardInfo], int]:
    """The number of the first video of a shard."""
    return lambda shard: 0 if shard == shard_of(snapshot, "v0") else 5


def test_a_shard_of_another_schema_is_found(
    snapshot: Snapshot, table: Table, first_row: Callable[[ShardInfo], int]
) -> None:
    first, second = snapshot.shards
    rows = table(second.rows, first_row(second))
    index = rows.schema.names.index("fps")
    other = rows.set_column(index, "fps", rows["fps"].cast(pa.float32())).replace_schema_metadata(rows.schema.metadata)
    assert problems(put(snapshot, second, other)) == [f"{second.path}: fps is float, not double"]
    snapshot = put(snapshot, second, rows)
    none = table(first.rows, first_row(first)).drop_columns(["frames"])
    assert problems(put(snapshot, first, none)) == [f"{first.path} has no frame features"]


def test_shards_with_and_without_patches_are_no_set(
    snapshot: Snapshot,
    columns: Columns,
    table: Table,
    fingerprint: Fingerprint,
    first_row: Callable[[ShardInfo], int],
) -> None:
    first, second = snapshot.shards
    schema = feature_schema(replace(SHAPE, patches=0), fingerprint)
    without = [build_table(columns(shard.rows, first_row(shard)), schema) for shard in (first, second)]
    found = problems(put(snapshot, first, without[0]))
    assert found == [f"{second.path} has patches, which the shards before have not"]
    snapshot = put(snapshot, first, table(first.rows, first_row(first)))
    assert problems(put(snapshot, second, without[1])) == [f"{second.path} has no column patches"]


def test_a_shard_of_another_length_is_found(snapshot: Snapshot, table: Table) -> None:
    shard = shard_of(snapshot, "v5")
    changed = put(snapshot, shard, table(2, first=5))
    told = replace(changed, shards=tuple(replace(info, rows=3) if info.rows == 2 else info for info in changed.shards))
    (line,) = problems(told)
    assert f"{shard.path} has 2 rows, snapshot 3 says 3" in line


def test_a_shard_without_rows_is_no_problem(store: FeatureStore, table: Table, fingerprint: Fingerprint) -> None:
    """The first version of this program wrote some."""
    empty = store.write_shard(table(0))
    snapshot = store.commit(fingerprint, Change(), {})
    file = Path(store.url) / "snapshots" / "00000001.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shards": [empty.to_json()]}))
    assert problems(store.snapshot()) == problems(snapshot) == []
