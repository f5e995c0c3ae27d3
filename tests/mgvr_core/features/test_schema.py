"""A shard is a Parquet file that anyone can read: with its tensors' shapes, and without this package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgvr_core.errors import MgvrError
from mgvr_core.features.schema import (
    FeatureShape,
    build_table,
    feature_schema,
    fingerprint_of,
    shape_of,
    tensor_column,
    upgrade,
    upgraded,
)
from mgvr_core.identity import Fingerprint

Columns = Callable[..., dict[str, Any]]
Table = Callable[..., pa.Table]

SHAPES = {
    "timestamps": (3,),
    "mask": (3,),
    "video": (4,),
    "frames": (3, 4),
    "frame_norms": (3,),
    "temporal": (3, 4),
    "patches": (3, 2, 4),
}
PLAIN = ("id", "uri", "content_hash", "start", "end", "duration", "fps", "decoder", "thumbnail")


def stored(name: str, values: object) -> np.ndarray:
    return np.asarray(values).astype(
        {"timestamps": np.float32, "mask": np.uint8, "frame_norms": np.float32}.get(name, np.float16)
    )


@pytest.fixture
def shard(table: Table, tmp_path: Path) -> Path:
    file = tmp_path / "shard.parquet"
    pq.write_table(table(), file)
    return file


def test_pyarrow_reads_tensors_with_their_shape(columns: Columns, shard: Path) -> None:
    read, expected = pq.read_table(shard), columns()
    for name, shape in SHAPES.items():
        assert tuple(read.schema.field(name).type.shape) == shape
        array = read.column(name).chunk(0).to_numpy_ndarray()
        np.testing.assert_array_equal(array, stored(name, expected[name]))
        assert array.dtype == stored(name, expected[name]).dtype
    for name in PLAIN:
        assert read.column(name).to_pylist() == expected[name]


def test_duckdb_reads_every_column(columns: Columns, shard: Path) -> None:
    expected = columns()
    names = [*PLAIN, *SHAPES]
    selected = ", ".join(f'"{name}"' for name in names)
    rows = duckdb.connect().execute(f"SELECT {selected} FROM read_parquet(?)", [str(shard)]).fetchall()
    found = dict(zip(names, zip(*rows, strict=True), strict=True))
    for name in PLAIN:
        assert list(found[name]) == expected[name]
    for name in SHAPES:
        np.testing.assert_array_equal(np.array(found[name]), stored(name, expected[name]).reshape(5, -1))


def test_pandas_reads_every_column(columns: Columns, shard: Path) -> None:
    frame, expected = pd.read_parquet(shard), columns()
    assert set(frame.columns) == {*PLAIN, *SHAPES}
    assert frame["id"].tolist() == expected["id"]
    for name in SHAPES:
        np.testing.assert_array_equal(np.stack(frame[name]), stored(name, expected[name]).reshape(5, -1))


def test_the_file_says_what_made_it(shard: Path) -> None:
    metadata = pq.read_schema(shard).metadata
    assert metadata[b"mgvr.schema_version"] == b"3"
    assert json.loads(metadata[b"mgvr.fingerprint"])["activation"] == "quickgelu"
    assert fingerprint_of(pq.read_schema(shard), str(shard)).parts["sampling"] == {"frames": 3, "fps": 1.0}


@settings(deadline=None)
@given(F=st.integers(1, 4), D=st.integers(1, 5), P=st.integers(0, 3))
def test_sizes_are_read_back_from_the_schema(F: int, D: int, P: int) -> None:
    schema = feature_schema(FeatureShape(F, D, P), Fingerprint({}))
    assert shape_of(schema) == FeatureShape(F, D, P)
    assert ("patches" in schema.names) is (P > 0)


def test_an_empty_table_keeps_its_shapes(columns: Columns, tmp_path: Path) -> None:
    schema = feature_schema(FeatureShape(3, 4, 2), Fingerprint({}))
    file = tmp_path / "empty.parquet"
    pq.write_table(build_table(columns(0), schema), file)
    read = pq.read_table(file)
    assert {name: tensor_column(read, name).shape for name in SHAPES} == {n: (0, *shape) for n, shape in SHAPES.items()}
    assert tensor_column(schema.empty_table(), "patches").shape == (0, 3, 2, 4)


def test_a_column_in_many_chunks_is_one_array(table: Table) -> None:
    both = pa.concat_tables([table(3), table(2, first=3)])
    for name in SHAPES:
        parts = [tensor_column(table(3), name), tensor_column(table(2, first=3), name)]
        np.testing.assert_array_equal(tensor_column(both, name), np.concatenate(parts))
        np.testing.assert_array_equal(tensor_column(both.slice(2, 2), name), np.concatenate(parts)[2:4])


@pytest.mark.parametrize("name", ["video", "frames", "temporal", "patches"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6], ids=["NaN", "infinity", "beyond fp16"])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_feature_that_is_no_number_is_refused(columns: Columns, name: str, value: float) -> None:
    broken = columns()
    broken[name] = np.array(broken[name], np.float32)
    broken[name][2, 0] = value
    with pytest.raises(ValueError, match=f"column {name} holds NaN or infinity"):
        build_table(broken, feature_schema(FeatureShape(3, 4, 2), Fingerprint({})))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_length_that_is_no_number_is_refused(columns: Columns, value: float) -> None:
    broken = columns()
    broken["frame_norms"][2, 0] = value
    with pytest.raises(ValueError, match="column frame_norms holds NaN or infinity"):
        build_table(broken, feature_schema(FeatureShape(3, 4, 2), Fingerprint({})))


def test_a_feature_of_another_shape_is_refused(columns: Columns) -> None:
    broken = columns()
    broken["frames"] = broken["frames"].transpose(0, 2, 1)
    with pytest.raises(ValueError, match=r"column frames has shape \(4, 3\), the schema wants \[3, 4\]"):
        build_table(broken, feature_schema(FeatureShape(3, 4, 2), Fingerprint({})))


def test_a_missing_column_is_refused_by_name(columns: Columns) -> None:
    broken = columns()
    del broken["temporal"]
    with pytest.raises(KeyError, match="temporal"):
        build_table(broken, feature_schema(FeatureShape(3, 4, 2), Fingerprint({})))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "foreign.parquet")
    with pytest.raises(MgvrError, match=r"foreign\.parquet is not a feature shard"):
        fingerprint_of(pq.read_schema(tmp_path / "foreign.parquet"), "foreign.parquet")


def test_a_newer_schema_is_refused(table: Table) -> None:
    schema = table().schema
    newer = schema.with_metadata(schema.metadata | {b"mgvr.schema_version": b"4"})
    with pytest.raises(MgvrError, match=r"s\.parquet has schema version 4, this program reads up to 3: use the"):
        fingerprint_of(newer, "s.parquet")


LACKED = {1: ["decoder", "frame_norms"], 2: ["frame_norms"]}
CURRENT = Fingerprint({"weights": "abc", "schema": 3})


@pytest.fixture(params=LACKED)
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def old(table: Table, version: int) -> pa.Table:
    """A shard of an older schema: without some columns, and with its version among the parts of the fingerprint."""
    made = table(fingerprint=Fingerprint({"weights": "abc", "schema": version}))
    metadata = made.schema.metadata | {b"mgvr.schema_version": str(version).encode()}
    return made.drop_columns(LACKED[version]).replace_schema_metadata(metadata)


def test_a_shard_of_an_older_schema_is_read_as_one_of_the_current(old: pa.Table, version: int, table: Table) -> None:
    current = table(fingerprint=CURRENT)
    upgraded = upgrade(old)
    assert upgraded.schema.equals(current.schema, check_metadata=True)
    for name in LACKED[version]:
        assert upgraded[name].to_pylist() == [None] * 5
    apart = [*LACKED[version], "timestamps"]  # its NaN equals nothing
    assert upgraded.drop_columns(apart).equals(current.drop_columns(apart))
    assert len(pa.concat_tables([upgraded, current])) == 10


def test_some_columns_of_an_older_schema_are_no_more_than_those(old: pa.Table, version: int) -> None:
    whole = old.schema
    assert upgrade(old.select(["id"]), ["id"], whole).schema.names == ["id"]
    names = ["id", *LACKED[version]]
    some = upgrade(old.select(["id"]), names, whole)
    nulls = {name: [None] * 5 for name in LACKED[version]}
    assert some.to_pydict() == {"id": [f"v{i}" for i in range(5)], **nulls}
    assert some.schema.field("frame_norms").type == pa.fixed_shape_tensor(pa.float32(), [3])


def test_what_an_older_schema_lacked_survives_parquet_as_missing(old: pa.Table, table: Table, tmp_path: Path) -> None:
    both = pa.concat_tables([upgrade(old), table(2, first=5, fingerprint=CURRENT)])
    pq.write_table(both, tmp_path / "both.parquet")
    read = pq.read_table(tmp_path / "both.parquet")
    assert read.schema.equals(both.schema, check_metadata=True)
    assert read["frame_norms"].null_count == 5
    known = read.filter(read["frame_norms"].is_valid())
    np.testing.assert_array_equal(tensor_column(known, "frame_norms"), tensor_column(both.slice(5), "frame_norms"))


def test_lengths_that_were_not_kept_are_not_made_up(old: pa.Table, table: Table) -> None:
    both = pa.concat_tables([table(2, first=5, fingerprint=CURRENT), upgrade(old)])
    with pytest.raises(MgvrError, match="frame_norms is missing in 5 of 7 videos: an older version of mgvr"):
        tensor_column(both, "frame_norms")
    assert tensor_column(both.slice(0, 2), "frame_norms").shape == (2, 3)
    assert tensor_column(both, "frames").shape == (7, 3, 4)


def test_a_current_shard_is_not_touched(table: Table) -> None:
    made = table()
    assert upgrade(made) is made


def test_an_older_schema_is_no_other_fingerprint(old: pa.Table) -> None:
    """No version so far has changed a feature: a set goes on where an older program left it."""
    assert fingerprint_of(old.schema, "s.parquet").digest == CURRENT.digest


@pytest.mark.parametrize("parts", [{"schema": 3}, {"schema": 4}, {"weights": "a"}, {"schema": "1"}])
def test_a_fingerprint_that_is_not_older_stays_as_it_is(parts: dict[str, object]) -> None:
    assert upgraded(Fingerprint(parts)).parts == parts


CODINGS = {
    "fp16": {"values": "fp16", "tokens": 0, "subvectors": None},
    "int8": {"values": "int8", "tokens": 0, "subvectors": None},
    "int8 merged": {"values": "int8", "tokens": 1, "subvectors": None},
    "pq merged": {"values": "pq", "tokens": 1, "subvectors": 2},
}


@pytest.fixture(params=CODINGS)
def coded(request: pytest.FixtureRequest) -> pa.Schema:
    """The schema of a coded set with one or two patch tokens a frame."""
    coding = {**CODINGS[request.param], "rotate": None, "codebooks": None, "version": 1}
    return feature_schema(FeatureShape(3, 4, coding["tokens"] or 2), Fingerprint({"weights": "abc", "codec": coding}))


def packed_columns(columns: Columns, schema: pa.Schema, n: int = 5, first: int = 0) -> dict[str, Any]:
    """Rows for a coded schema: numbers that a wrong dtype, shape or offset would not give back."""
    values, random = columns(n, first), np.random.default_rng(first)
    for field in schema:
        if pa.types.is_fixed_size_binary(field.type):
            dtype, shape = np.dtype(field.metadata[b"mgvr.dtype"].decode()), json.loads(field.metadata[b"mgvr.shape"])
            values[field.name] = random.integers(0, 100, (n, *shape)).astype(dtype)
    return values


def test_coded_tensors_are_read_as_they_were_written(columns: Columns, coded: pa.Schema, tmp_path: Path) -> None:
    whole = packed_columns(columns, coded)
    pq.write_table(build_table(whole, coded), tmp_path / "coded.parquet")
    read = pq.read_table(tmp_path / "coded.parquet")
    for field in coded:
        if not pa.types.is_fixed_size_binary(field.type):
            continue
        name = field.name
        found = tensor_column(read, name)
        np.testing.assert_array_equal(found, whole[name])
        assert found.dtype == whole[name].dtype
        np.testing.assert_array_equal(tensor_column(read.slice(2, 2), name), whole[name][2:4])
        np.testing.assert_array_equal(tensor_column(read.take(pa.array([4, 0])), name), whole[name][[4, 0]])
        np.testing.assert_array_equal(tensor_column(read.select([name]), name), whole[name])
        both = pa.concat_tables([read, build_table(packed_columns(columns, coded, 2, 5), coded)])
        assert len(tensor_column(both, name)) == 7
        assert tensor_column(coded.empty_table(), name).shape == (0, *whole[name].shape[1:])


def test_a_coded_schema_tells_its_sizes_and_has_every_plain_column(coded: pa.Schema) -> None:
    tokens = fingerprint_of(coded, "s.parquet").parts["codec"]["tokens"]  # type: ignore[index]
    assert shape_of(coded) == FeatureShape(3, 4, tokens or 2)
    assert {*PLAIN, *SHAPES, "reach"} <= set(coded.names)
    assert len(set(coded.names)) == len(coded.names)


def test_anyone_reads_a_coded_column_by_its_metadata(columns: Columns, coded: pa.Schema, tmp_path: Path) -> None:
    whole = packed_columns(columns, coded)
    pq.write_table(build_table(whole, coded), tmp_path / "coded.parquet")
    rows = duckdb.connect().execute("SELECT temporal FROM read_parquet(?)", [str(tmp_path / "coded.parquet")])
    about = pq.read_schema(tmp_path / "coded.parquet").field("temporal").metadata
    dtype, shape = about[b"mgvr.dtype"].decode(), json.loads(about[b"mgvr.shape"])
    found = np.stack([np.frombuffer(row[0], dtype).reshape(shape) for row in rows.fetchall()])
    np.testing.assert_array_equal(found, whole["temporal"])


def test_a_coded_tensor_of_another_shape_or_without_numbers_is_refused(columns: Columns, coded: pa.Schema) -> None:
    broken = packed_columns(columns, coded)
    broken["video"] = broken["video"][:, :3]
    with pytest.raises(ValueError, match=r"column video has shape \(3,\), the schema wants \[4\]"):
        build_table(broken, coded)
    broken = packed_columns(columns, coded)
    broken["video"][1, 2] = np.nan
    with pytest.raises(ValueError, match="column video holds NaN or infinity"):
        build_table(broken, coded)


def test_a_newer_code_is_refused() -> None:
    coding = {"values": "int8", "tokens": 0, "subvectors": None, "rotate": None, "codebooks": None, "version": 2}
    with pytest.raises(MgvrError, match="coded in version 2, this program reads up to 1: use the version"):
        feature_schema(FeatureShape(3, 4, 2), Fingerprint({"codec": coding}))
