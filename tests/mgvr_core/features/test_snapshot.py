"""Reading a version: what belongs to it and nothing else, also of a set that an older program wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feature_sets import uris_of

from mgvr_core.errors import MgvrError
from mgvr_core.features.contents import Change, Failure, Key, Place, Source
from mgvr_core.features.schema import SCHEMA_VERSION
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.features.verify import verify
from mgvr_core.identity import Fingerprint, hash_file

Table = Callable[..., pa.Table]
Adding = Callable[..., Change]


@pytest.fixture
def snapshot(store: FeatureStore, adding: Adding, fingerprint: Fingerprint) -> Snapshot:
    """v0 to v4 in one shard, of which v1 has been dropped since."""
    store.commit(fingerprint, adding(store, 5), {})
    gone = [source for source in store.contents().sources.values() if source.id == "v1"]
    return store.commit(fingerprint, Change(gone=gone), {"run": "x"})


def test_rows_that_are_no_part_of_the_set_are_not_read(snapshot: Snapshot, table: Table) -> None:
    (shard,) = snapshot.shards
    rows = snapshot.read_shard(shard)
    assert rows["id"].to_pylist() == ["v0", "v2", "v3", "v4"]
    kept = table().take(pa.array([0, 2, 3, 4]))
    assert rows.drop_columns("timestamps").equals(kept.drop_columns("timestamps"))
    assert (snapshot.rows, shard.live, shard.rows) == (4, 4, 5)
    assert snapshot.bytes == shard.bytes


def test_columns_come_as_they_were_asked_for(snapshot: Snapshot) -> None:
    (rows,) = snapshot.tables(["uri", "id"])
    assert rows.schema.names == ["uri", "id"]
    assert rows["id"].to_pylist() == ["v0", "v2", "v3", "v4"]


def test_a_column_that_the_set_has_not_is_named(snapshot: Snapshot) -> None:
    with pytest.raises(MgvrError, match=r"\.parquet has no column captions, words"):
        snapshot.read_shard(snapshot.shards[0], ["id", "captions", "words"])


def test_the_uris_of_a_video_are_those_where_it_lies_now(
    store: FeatureStore, snapshot: Snapshot, fingerprint: Fingerprint
) -> None:
    head = store.contents()
    moved = head.sources[Key("clips", "clips/0.mp4")]
    twin = head.sources[Key("clips", "clips/2.mp4")]
    change = Change(
        sources=[
            replace(moved, key=Key("clips", "elsewhere/0.mp4")),
            replace(twin, key=Key("night", "2.mp4")),
            Source(Key("clips", "clips/9.mp4"), "v9", "9" * 64, 1, "mtime:1"),
        ],
        gone=[moved],
        failures=[Failure(Key("clips", "clips/9.mp4"), "v9", "decode", "broken", "", 1, "pyav", "2026")],
    )
    after = store.commit(fingerprint, change, {})
    assert uris_of(after) == {
        "v0": ["elsewhere/0.mp4"],
        "v2": ["clips/2.mp4", "2.mp4"],
        "v3": ["clips/3.mp4"],
        "v4": ["clips/4.mp4"],
    }
    assert after.shards == snapshot.shards


def test_a_version_names_all_the_files_that_it_needs(store: FeatureStore, snapshot: Snapshot) -> None:
    everything = {str(path.relative_to(store.url)) for path in Path(store.url).rglob("*.*") if path.is_file()}
    assert everything == snapshot.files() | store.snapshot(1).files()
    assert snapshot.name == "features"


def test_a_shard_of_another_set_is_refused_when_it_is_read(
    store: FeatureStore, table: Table, adding: Adding, fingerprint: Fingerprint
) -> None:
    change = adding(store)
    other = Fingerprint(dict(fingerprint.parts) | {"weights": "xyz"})
    foreign = replace(change.shards[0], path=store.write_shard(table(fingerprint=other)).path)
    sources = [replace(s, place=Place(foreign.path, row)) for row, s in enumerate(change.sources)]
    snapshot = store.commit(fingerprint, replace(change, sources=sources, shards=[foreign]), {})
    with pytest.raises(MgvrError, match=r"does not belong to snapshot 1: weights: .abc. against .xyz."):
        list(snapshot.tables(["id"]))


def test_a_foreign_file_in_the_place_of_a_shard_is_refused(store: FeatureStore, snapshot: Snapshot) -> None:
    file = Path(store.url) / snapshot.shards[0].path
    pq.write_table(pa.table({"id": ["a"]}), file)
    with pytest.raises(MgvrError, match=f"{file.name} is not a feature shard"):
        list(snapshot.tables())


def test_a_shard_of_another_length_is_refused(store: FeatureStore, snapshot: Snapshot, table: Table) -> None:
    """Rows are found by their number, so another file's rows would pass for these."""
    file = Path(store.url) / snapshot.shards[0].path
    pq.write_table(table(6), file)
    with pytest.raises(MgvrError, match=f"{file.name} has 6 rows, snapshot 2 says 5"):
        list(snapshot.tables(["id"]))


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_file_is_named(store: FeatureStore, snapshot: Snapshot, damage: str) -> None:
    assert snapshot.sources_file
    readers: dict[str, Callable[[], object]] = {
        snapshot.shards[0].path: lambda: list(snapshot.tables()),
        snapshot.sources_file.path: snapshot.sources,
    }
    for path, read in readers.items():
        file = Path(store.url) / path
        if damage == "cut":
            file.write_bytes(file.read_bytes()[:-20])
        else:
            file.unlink()
        with pytest.raises(MgvrError, match=f"{file.name} of snapshot 2 can't be read"):
            read()
    with pytest.raises(MgvrError, match="of snapshot 2 can't be read"):
        snapshot.schema()


OLD_PARTS = {"weights": "abc", "sampling": {"frames": 3, "fps": 1.0}, "schema": 1}
OLD_FAILURES = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("start", pa.float64()),
        pa.field("end", pa.float64()),
        *(pa.field(name, pa.string(), nullable=False) for name in ("stage", "kind", "message", "decoder")),
    ]
)
OLD_ROWS = [
    ("v9", "clips/9.mp4", 1.0, 2.0, "decode", "broken", "0 of 12 frames", "pyav"),
    (None, "clips/8.mp4", None, None, "read", "missing", "no such file", "pyav"),
    ("v0", "clips/twin.mp4", None, None, "read", "duplicate", "clips/twin.mp4 is clips/0.mp4 once more", "pyav"),
]


@pytest.fixture
def old(store: FeatureStore, table: Table) -> FeatureStore:
    """A set as the first version of this program left it: v0 to v4 in one shard, v9 and a missing file failed."""
    root = Path(store.url)

    def written(rows: pa.Table, folder: str) -> dict[str, Any]:
        (root / folder).mkdir(parents=True, exist_ok=True)
        scratch = root / folder / ".scratch"
        pq.write_table(rows, scratch, compression="none", use_dictionary=False)
        digest, size = hash_file(scratch), scratch.stat().st_size
        scratch.replace(root / folder / f"{digest[:32]}.parquet")
        return {"path": f"{folder}/{digest[:32]}.parquet", "rows": len(rows), "bytes": size, "sha256": digest}

    made = table(fingerprint=Fingerprint(OLD_PARTS)).drop_columns(["decoder", "frame_norms"])
    made = made.replace_schema_metadata(made.schema.metadata | {b"mgvr.schema_version": b"1"})
    rows = [dict(zip(OLD_FAILURES.names, row, strict=True)) for row in OLD_ROWS]
    document = {
        "schema_version": 1,
        "created": "2026-01-02T03:04:05+00:00",
        "fingerprint": OLD_PARTS,
        "rows": 5,
        "shards": [written(made, "shards")],
        "failures": [written(pa.Table.from_pylist(rows, schema=OLD_FAILURES), "failures")],
        "about": {"model": "m"},
    }
    (root / "snapshots").mkdir()
    (root / "snapshots" / "00000001.json").write_text(json.dumps(document, indent=1))
    return store


CURRENT = Fingerprint({**OLD_PARTS, "schema": SCHEMA_VERSION})


def test_a_set_of_the_first_format_is_read(old: FeatureStore, table: Table) -> None:
    snapshot = old.snapshot()
    assert (snapshot.format, snapshot.rows, snapshot.about) == (1, 5, {"model": "m"})
    assert snapshot.fingerprint.digest == CURRENT.digest
    (rows,) = snapshot.tables()
    expected = table(fingerprint=CURRENT)
    assert rows.schema.equals(expected.schema, check_metadata=True)
    apart = ["timestamps", "decoder", "frame_norms"]
    assert rows.drop_columns(apart).equals(expected.drop_columns(apart))
    (some,) = snapshot.tables(["decoder", "id"])
    assert list(some.to_pydict().items()) == [("decoder", [None] * 5), ("id", [f"v{i}" for i in range(5)])]
    (none,) = snapshot.tables(["frame_norms"])
    assert none.to_pydict() == {"frame_norms": [None] * 5}
    assert uris_of(snapshot) == {f"v{i}": [f"clips/{i}.mp4"] for i in range(5)}
    assert verify(snapshot).problems == ()


def test_the_failures_of_the_first_format_are_read_without_its_duplicates(old: FeatureStore) -> None:
    """Duplicates are no failures any more; the next listing finds them."""
    at = "2026-01-02T03:04:05+00:00"
    first, second = (Key("", f"clips/{name}.mp4", *times) for name, times in ((9, (1.0, 2.0)), (8, (None, None))))
    failures = {
        first: Failure(first, "v9", "decode", "broken", "0 of 12 frames", 1, "pyav", at),
        second: Failure(second, None, "read", "missing", "no such file", 1, "pyav", at),
    }
    head = old.contents()
    assert head.failures == failures
    assert {key: asdict(source) for key, source in head.sources.items() if key in failures} == {
        key: asdict(Source(key, failure.id, None, None, None)) for key, failure in failures.items()
    }
    assert len(head.sources) == 7


def test_a_commit_brings_a_set_of_the_first_format_up_to_date(
    old: FeatureStore, adding: Adding, fingerprint: Fingerprint
) -> None:
    before = old.contents()
    after = old.commit(CURRENT, Change(), {})
    assert (after.number, after.format, after.fingerprint) == (2, 2, CURRENT)
    assert after.contents() == before
    assert after.shards == old.snapshot(1).shards  # no feature is written again
    assert verify(after).problems == ()
    assert old.commit(CURRENT, Change(), {}) == after
    assert old.snapshot(1).contents() == before  # the old one stays readable


def test_a_set_of_the_first_format_grows_and_shrinks_like_any(old: FeatureStore, table: Table) -> None:
    shard = old.write_shard(table(1, first=5, fingerprint=CURRENT))
    new = Source(Key("clips", "clips/5.mp4"), "v5", f"{5:064x}", 1, "mtime:1", Place(shard.path, 0))
    gone = [source for source in old.contents().sources.values() if source.id in ("v0", "v1", "v2")]
    after = old.commit(CURRENT, Change([new], gone, shards=[shard]), {})
    assert sorted(uris_of(after)) == ["v3", "v4", "v5"]
    together = pa.concat_tables(after.tables())  # the old shard has been written anew, in the current schema
    assert sorted(together["id"].to_pylist()) == ["v3", "v4", "v5"]
    assert verify(after).problems == ()
    old.remove(old.rubbish(keep=1, older_than_s=0))
    assert verify(after).problems == ()


def test_another_fingerprint_is_refused_by_a_set_of_the_first_format(old: FeatureStore) -> None:
    with pytest.raises(MgvrError, match=r"weights: .abc. against .xyz."):
        old.commit(Fingerprint({**CURRENT.parts, "weights": "xyz"}), Change(), {})


def test_a_missing_shard_of_the_first_format_is_named(old: FeatureStore) -> None:
    shard = old.snapshot().shards[0].path
    (Path(old.url) / shard).unlink()
    with pytest.raises(MgvrError, match=re.escape(f"{shard} of snapshot 1 can't be read")):
        old.snapshot().sources()


@pytest.fixture
def mixed(store: FeatureStore, table: Table, fingerprint: Fingerprint) -> Snapshot:
    """v0 to v4 in a shard of schema version 2, which has no lengths of frames, and v5 to v7 in one of the current."""
    parts = {version: Fingerprint({**fingerprint.parts, "schema": version}) for version in (2, SCHEMA_VERSION)}
    old = table(5, fingerprint=parts[2]).drop_columns("frame_norms")
    old = old.replace_schema_metadata(old.schema.metadata | {b"mgvr.schema_version": b"2"})
    shards = [store.write_shard(rows) for rows in (old, table(3, first=5, fingerprint=parts[SCHEMA_VERSION]))]
    sources = [
        Source(Key("clips", f"clips/{row}.mp4"), f"v{row}", f"{row:064x}", 1, "mtime:1", place)
        for row, place in enumerate(Place(shard.path, row) for shard in shards for row in range(shard.rows))
    ]
    return store.commit(parts[SCHEMA_VERSION], Change(sources, shards=shards), {})


def test_shards_with_and_without_lengths_of_frames_are_one_set(mixed: Snapshot) -> None:
    together = pa.concat_tables(mixed.tables())
    assert together.num_rows == 8
    lengths = dict(zip(together["id"].to_pylist(), together["frame_norms"].to_pylist(), strict=True))
    assert sorted(name for name, values in lengths.items() if values is None) == [f"v{row}" for row in range(5)]
    few = pa.concat_tables(mixed.tables(["id", "frame_norms"]))
    assert few.equals(together.select(["id", "frame_norms"]))
    assert verify(mixed).problems == ()


def test_a_set_that_was_encoded_before_lengths_were_kept_says_so(store: FeatureStore, mixed: Snapshot) -> None:
    mixed.require("frames")
    with pytest.raises(MgvrError, match=r"5 of 8 videos of .*features \(snapshot 1\) have no frame_norms: an older"):
        mixed.require("frame_norms")
    gone = [source for source in mixed.sources().values() if source.id in [f"v{row}" for row in range(5)]]
    store.commit(mixed.fingerprint, Change(gone=gone), {}).require("frame_norms")


def test_a_shard_without_lengths_is_written_anew_and_swept_like_any(store: FeatureStore, mixed: Snapshot) -> None:
    gone = [source for source in mixed.sources().values() if source.id in ("v0", "v1", "v2", "v5", "v6")]
    after = store.commit(mixed.fingerprint, Change(gone=gone), {})
    assert not {shard.path for shard in after.shards} & {shard.path for shard in mixed.shards}  # both are new files
    store.remove(store.rubbish(keep=1, older_than_s=0))
    assert {path.name for path in (Path(store.url) / "shards").iterdir()} == {Path(s.path).name for s in after.shards}
    rows = pa.concat_tables(after.tables())
    lengths = dict(zip(rows["id"].to_pylist(), rows["frame_norms"].to_pylist(), strict=True))
    assert lengths.keys() == {"v3", "v4", "v7"}
    assert lengths["v3"] is lengths["v4"] is None
    assert lengths["v7"] is not None
    assert verify(after).problems == ()
