"""The videos of a snapshot in the order of their ids: what a search needs to know of all of them, and no features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mgvr_core.features.snapshot import Snapshot

_READERS = 8
"""Shards whose ids are read side by side: an object store answers late."""


@dataclass(frozen=True)
class Pool:
    """N videos, in the order of their ids."""

    ids: pa.Array
    """(N,) strings, ascending."""
    uris: pa.Array
    """(N,) where they lie: a shard knows where its videos lay when they were encoded, the snapshot where they lie."""
    shard: NDArray[np.int64]
    """(N,) which shard of the snapshot holds the video."""
    row: NDArray[np.int64]
    """(N,) and in which of its rows."""

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Where videos stand in the order of ids; -1 for one that is not here."""
        found = pc.index_in(pa.array(names, pa.string()), value_set=self.ids)
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Ids of some videos."""
        named: list[str] = self.ids.take(pa.array(rows)).to_pylist()
        return named

    @cached_property
    def order(self) -> dict[int, NDArray[np.int64]]:
        """Shard number -> the places of its videos in the order of ids, row by row."""
        by_shard = np.lexsort((self.row, self.shard))
        numbers, starts = np.unique(self.shard[by_shard], return_index=True)
        return dict(zip(numbers.tolist(), np.split(by_shard, starts[1:]), strict=True))

    def by_shard(self, video: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Each shard that holds some of the videos (M,), and which of the M it holds."""
        if not len(video):
            return
        shard = self.shard[video]
        order = np.argsort(shard, kind="stable")
        numbers, starts = np.unique(shard[order], return_index=True)
        yield from zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)


def load_pool(snapshot: Snapshot) -> Pool:
    """The videos of a snapshot."""
    with ThreadPoolExecutor(_READERS) as readers:
        tables = list(readers.map(lambda shard: snapshot.read_shard(shard, ["id"]), snapshot.shards))
    ids = pa.concat_arrays([chunk for table in tables for chunk in table["id"].chunks])
    shard = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    row = np.concatenate([np.arange(len(table)) for table in tables])
    order = pc.sort_indices(ids).to_numpy()
    return Pool(ids.take(order), _uris(snapshot, shard, row).take(order), shard[order], row[order])


def _uris(snapshot: Snapshot, shard: NDArray[np.int64], row: NDArray[np.int64]) -> pa.Array:
    """Where the videos lie that are rows of shards, (N,); of several exact duplicates, the first that is listed."""
    # The row of the file, where `row` counts those that are left.
    in_file = np.concatenate([info.live_rows for info in snapshot.shards])  # (N,)
    key = (shard << 32) | in_file
    listed = snapshot.places()
    where = (_numbers(listed["shard"], [info.path for info in snapshot.shards]) << 32) | listed["row"].to_numpy()
    order = np.argsort(where, kind="stable")
    first = order[np.searchsorted(where[order], key)]
    return listed["uri"].combine_chunks().take(pa.array(first))


def _numbers(paths: Any, known: list[str]) -> NDArray[np.int64]:
    return np.asarray(pc.index_in(paths, value_set=pa.array(known)).to_numpy(), np.int64)
