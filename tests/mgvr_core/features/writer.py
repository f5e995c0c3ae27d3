"""A run that writes to a feature set, as a process of its own, to be raced and killed.

writer.py rounds URL NAME ROUNDS    every round adds two videos and drops one of the round before
writer.py die URL NAME MOMENT       adds two videos, and kills itself in the midst of it
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mgvr_core import storage
from mgvr_core.errors import MgvrError
from mgvr_core.features.contents import Change, Key, Place, Source
from mgvr_core.features.schema import FeatureShape, build_table, feature_schema
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint, hash_json

FINGERPRINT = Fingerprint({"weights": "abc"})
SHAPE = FeatureShape(frames=2, dim=4, patches=0)


def added(store: FeatureStore, name: str, number: int) -> Change:
    """Two videos, `NAME-NUMBER-0` and `-1`, encoded into one shard."""
    ids = [f"{name}-{number}-{row}" for row in range(2)]
    hashes = [hash_json(video) for video in ids]
    unit = np.eye(4, dtype=np.float16)[[number % 4, 3]]
    columns = {
        "id": ids,
        "uri": ids,
        "content_hash": hashes,
        **dict.fromkeys(("start", "end", "decoder", "thumbnail"), [None] * 2),
        **dict.fromkeys(("duration", "fps"), [1.0] * 2),
        "timestamps": np.zeros((2, 2)),
        "mask": np.ones((2, 2)),
        "video": unit,
        "frame_norms": np.ones((2, 2)),
        **dict.fromkeys(("frames", "temporal"), np.stack([unit, unit])),
    }
    shard = store.write_shard(build_table(columns, feature_schema(SHAPE, FINGERPRINT)))
    sources = [
        Source(Key(name, video), video, content, 1, "mtime:1", Place(shard.path, row))
        for row, (video, content) in enumerate(zip(ids, hashes, strict=True))
    ]
    return Change(sources=sources, shards=[shard])


def rounds(url: str, name: str, count: int) -> None:
    store = FeatureStore(url)
    for number in range(count):
        while True:
            try:
                change = added(store, name, number)
                drop = [Key(name, f"{name}-{number - 1}-0")] if number else []
                gone = [source for key, source in store.contents().sources.items() if key in drop]
                store.commit(FINGERPRINT, Change(change.sources, gone, shards=change.shards), {"writer": name})
            except (MgvrError, OSError) as error:
                print(f"told to run again: {error}", flush=True)
                continue
            break


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # a signal to oneself may take a moment


def dying(action: Callable[..., object]) -> Callable[..., None]:
    return lambda *arguments, **options: die(action(*arguments, **options))


def killed(url: str, name: str, moment: str) -> None:
    store = FeatureStore(url)
    place = store.storage
    if moment == "in the shard":
        pq.write_table = lambda table, where, **_: die(Path(where).write_bytes(b"PAR1 half of it"))
    change = added(store, name, 0)
    if moment == "after the shard":
        die()
    if moment == "in the record":
        storage.sync = die  # type: ignore[assignment]
    store.record(FINGERPRINT, change.shards[0], [(str(s.id), str(s.content_hash)) for s in change.sources])
    if moment == "after the record":
        die()
    if moment == "after the tables":
        place.put = die  # type: ignore[method-assign]
    if moment == "before the snapshot":
        place.create = die  # type: ignore[method-assign]
    if moment == "in the snapshot":
        os.link = die  # type: ignore[assignment]
    if moment == "after the snapshot":
        place.create = dying(place.create)  # type: ignore[method-assign]
    store.commit(FINGERPRINT, change, {"writer": name})


if __name__ == "__main__":
    command, url, name, detail = sys.argv[1:]
    if command == "rounds":
        rounds(url, name, int(detail))
    else:
        killed(url, name, detail)
