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
