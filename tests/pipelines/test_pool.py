"""The videos of a snapshot in the order of their ids, wherever their rows lie and wherever their files do now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from feature_sets import uris_of
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_sets import PLAIN, hash_of, made_set

from mgvr_core.features.contents import Change, Key, Source
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from pipelines.pool import Pool, load_pool

NAMES = [["v5", "v1", "ä", "v10"], ["v4", "v2", "Z", "v3"], ["v9", "v0", "日本", "v7", "v8"]]
GONE = ["v1", "v4", "v9"]
IDS = sorted({name for names in NAMES for name in names} - set(GONE))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Some videos are gone, one has moved, one has copies: earlier and later in the order of the listing."""
    before = made_set(tmp_path_factory.mktemp("set"), NAMES, GONE)
    at = {source.id: source for source in before.sources().values()}

    def copied(name: str, uri: str) -> Source:
        return Source(Key("made", uri), name, hash_of(name), 1, "mtime:2", at[name].place)

    change = Change(
        sources=[
            copied("v0", "moved/v0.mp4"),
            copied("v3", "a-copy/v3.mp4"),
            copied("v3", "z-copy/v3.mp4"),
            copied("ä", "z-copy/ä.mp4"),
        ],
        gone=[at["v0"]],
    )
    return FeatureStore(before.url).commit(PLAIN, change, {})


@pytest.fixture(scope="module")
def pool(snapshot: Snapshot) -> Pool:
    return load_pool(snapshot)


def test_ids_ascend_and_what_is_gone_is_not_there(pool: Pool) -> None:
    assert pool.ids.to_pylist() == IDS
    assert len(pool) == len(IDS)


def test_each_video_is_found_in_its_row(snapshot: Snapshot, pool: Pool) -> None:
    """Rows are counted as a reader of the shard sees them, without those that are gone."""
    assert any(shard.removed for shard in snapshot.shards)
    held = [snapshot.read_shard(shard, ["id"])["id"].to_pylist() for shard in snapshot.shards]
    assert [held[shard][row] for shard, row in zip(pool.shard, pool.row, strict=True)] == IDS


def test_videos_lie_where_the_snapshot_says_now(snapshot: Snapshot, pool: Pool) -> None:
    """And not where they lay when they were encoded; of several copies the first that is listed is named."""
    found = dict(zip(IDS, pool.uris.to_pylist(), strict=True))
    assert found == {name: uris[0] for name, uris in uris_of(snapshot).items()}
    assert found["v0"] == "moved/v0.mp4"
    assert found["v2"] == "clips/v2.mp4"
    assert len(uris_of(snapshot)["v3"]) == 3


def test_a_set_of_one_shard_and_nothing_gone(tmp_path: Path) -> None:
    pool = load_pool(made_set(tmp_path, [["b", "a"]]))
    assert pool.ids.to_pylist() == ["a", "b"]
    assert pool.uris.to_pylist() == ["clips/a.mp4", "clips/b.mp4"]
    assert (pool.shard.tolist(), pool.row.tolist()) == ([0, 0], [1, 0])


@st.composite
def pools(draw: st.DrawFn) -> tuple[Pool, dict[str, tuple[int, int]]]:
    """A pool, and the shard and row of each id; some numbers of shards are left out."""
    names = sorted(draw(st.sets(st.text("abcä日", min_size=1, max_size=4), min_size=1, max_size=12)))
    shards = [draw(st.integers(0, 4)) for _ in names]
    shuffled = draw(st.permutations(range(len(names))))
    row = [0] * len(names)
    filled: dict[int, int] = {}
    for number in shuffled:
        row[number] = filled.get(shards[number], 0)
        filled[shards[number]] = row[number] + 1
    ids = pa.array(names, pa.string())
    pool = Pool(ids, ids, np.array(shards, np.int64), np.array(row, np.int64))
    return pool, dict(zip(names, zip(shards, row, strict=True), strict=True))


@settings(deadline=None, max_examples=60)
@given(made=pools(), asked=st.lists(st.text("abcä日", max_size=4), max_size=10), data=st.data())
def test_names_and_places_are_each_others_inverse(
    made: tuple[Pool, dict[str, tuple[int, int]]], asked: list[str], data: st.DataObject
) -> None:
    pool, held = made
    names = sorted(held)
    wanted = data.draw(st.permutations([*asked, *names]))
    places = pool.places(wanted)
    assert places.dtype == np.int64
    assert places.tolist() == [names.index(name) if name in held else -1 for name in wanted]
    rows = np.array(data.draw(st.lists(st.integers(0, len(names) - 1), max_size=10)), np.int64)
    assert pool.names(rows) == [names[row] for row in rows]


@settings(deadline=None, max_examples=60)
@given(made=pools(), data=st.data())
def test_shards_are_given_their_own_videos(made: tuple[Pool, dict[str, tuple[int, int]]], data: st.DataObject) -> None:
    pool, held = made
    names = sorted(held)
    by_row: dict[int, dict[int, str]] = {}
    for name, (shard, row) in held.items():
        by_row.setdefault(shard, {})[row] = name
    assert pool.order.keys() == by_row.keys()
    for shard, places in pool.order.items():
        assert [names[place] for place in places] == [by_row[shard][row] for row in range(len(places))]
    video = np.array(data.draw(st.lists(st.integers(0, len(names) - 1), max_size=15)), np.int64)
    found = dict(pool.by_shard(video))
    expected: dict[int, list[int]] = {}
    for number, place in enumerate(video.tolist()):
        expected.setdefault(held[names[place]][0], []).append(number)
    assert {shard: mine.tolist() for shard, mine in found.items()} == expected
