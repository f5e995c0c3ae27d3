"""Features of a set as memory-mapped rows: heads are trained from them without a video, or CLIP, in sight.

    FEATURES/<key>/<shard>.arrow   id, mask, frames, frame_norms and, where a loss reads them, patches
    FEATURES/<key>/done.json       which files they are; written last

Shards are compressed, and training reads their rows in an order of its own: a batch would open all of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import ray

from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.files import replacing
from mgvr_core.identity import hash_json
from pipelines.kept import write_kept
from pipelines.progress import progress


def unpack_features(snapshot: Snapshot, patches: bool, folder: Path) -> tuple[str, ...]:
    """Write the rows of a set below `folder`, or find them there; returns the files. Needs a Ray connection."""
    columns = ["id", "mask", "frames", "frame_norms", *(["patches"] if patches else [])]
    shards = [[shard.path, shard.sha256, list(shard.removed)] for shard in snapshot.shards]
    place = folder / hash_json([shards, columns])[:16]
    done = place / "done.json"
    if not done.exists():
        with progress("unpack", len(shards), "shards") as counter:
            names = ray.get(
                [_unpack.remote(snapshot, number, columns, place, counter) for number in range(len(shards))]
            )
        with replacing(done) as file:
            json.dump({"files": names}, file)
    files = json.loads(done.read_text(encoding="utf-8"))["files"]
    return tuple(str(place / name) for name in files)


@ray.remote
def _unpack(snapshot: Snapshot, number: int, columns: list[str], place: Path, counter: object) -> str:
    table = snapshot.read_shard(snapshot.shards[number], columns)
    tensors = {column: tensor_column(table, column) for column in columns if column != "id"}
    path = write_kept(place, table["id"].to_pylist(), tensors)
    counter.add.remote("shards", 1)  # type: ignore[attr-defined]
    return path.name
