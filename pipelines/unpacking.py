"""Features of a set as memory-mapped rows: heads are trained from them without a video, or CLIP, in sight.

    FEATURES/<key>/<shard>.arrow   id, mask, frames, frame_norms and, where a loss reads them, patches
    FEATURES/<key>/done.json       which files they are; written last

Shards are compressed, and training reads their rows in an order of its own: a batch would open all of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import ray

from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.identity import hash_json
from pipelines.progress import progress


def unpack_features(snapshot: Snapshot, patches: bool, folder: Path) -> tuple[str, ...]:
    """Write the rows of a set below `folder`, or find them there; returns the files. Needs a Ray connection."""
    columns = ["id", "mask", "frames", "frame_norms", *(["patches"] if patches else [])]
    shards = [[shard.path, shard.sha256, list(shard.removed)] for shard in snapshot.shards]
    place = folder / hash_json([shards, columns])[:16]
    done = place / "done.json"
    if not done.exists():
        place.mkdir(parents=True, exist_ok=True)
        with progress("unpack", len(shards), "shards") as counter:
            names = ray.get(
                [_unpack.remote(snapshot, number, columns, place, counter) for number in range(len(shards))]
            )
        temporary = place / f".{uuid4().hex}"
        temporary.write_text(json.dumps({"files": names}), encoding="utf-8")
        temporary.replace(done)
    files = json.loads(done.read_text(encoding="utf-8"))["files"]
    return tuple(str(place / name) for name in files)


@ray.remote
def _unpack(snapshot: Snapshot, number: int, columns: list[str], place: Path, counter: object) -> str:
    table = snapshot.read_shard(snapshot.shards[number], columns)
    name = f"{number:06d}.arrow"
    temporary = place / f".{uuid4().hex}"
    tensors = {column: np.ascontiguousarray(tensor_column(table, column)) for column in columns if column != "id"}
    arrays = {column: pa.FixedShapeTensorArray.from_numpy_ndarray(values) for column, values in tensors.items()}
    plain = pa.table({"id": table["id"].combine_chunks(), **arrays})
    with pa.ipc.new_file(temporary, plain.schema) as writer:
        writer.write_table(plain)
    temporary.replace(place / name)
    counter.add.remote("shards", 1)  # type: ignore[attr-defined]
    return name
