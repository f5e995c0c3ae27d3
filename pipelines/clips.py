"""Decoded training clips on disk: every video is decoded once, and all epochs and workers read the same bytes.

    CLIPS/<key>/<hash>.arrow   Arrow files with id, mask and pixels, memory-mapped by the training workers
    CLIPS/<key>/done.json      which files they are, and the videos that failed; written last

The key is made of the videos' contents, the frame sampling, the size, the decoder and its limits, so that a second run,
or one that was killed while training, finds its clips and decodes nothing, and one with more time or memory for each
video tries again what failed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from mgvr_core.files import replacing
from mgvr_core.identity import hash_json
from mgvr_core.video.sampling import SamplingConfig
from pipelines.decoding import Batch, Decode, DecodingConfig
from pipelines.kept import ids_below, write_kept
from pipelines.progress import progress

_ROWS = 256
"""Clips in one file."""


@dataclass(frozen=True)
class ClipFiles:
    """Decoded clips, and what could not be decoded."""

    paths: tuple[str, ...]
    failures: tuple[dict[str, str], ...]
    """id, uri, stage, kind and message of each."""


def decode_clips(
    videos: pa.Table, sampling: SamplingConfig, size: int, decoding: DecodingConfig, folder: Path, stall_s: int
) -> ClipFiles:
    """Decode the rows of `unique_videos` into `folder`, or find their clips there; needs a Ray connection."""
    names = ("id", "content_hash", "start", "end")
    key = hash_json(
        {
            "videos": [[row[name] for name in names] for row in videos.to_pylist()],
            "sampling": sampling.model_dump(mode="json"),
            "size": size,
            "decoder": decoding.version(),
            "limits": decoding.limits.model_dump(mode="json"),
        }
    )
    place = folder / key[:16]
    done = place / "done.json"
    if done.exists():
        document = json.loads(done.read_text(encoding="utf-8"))
        return ClipFiles(tuple(str(place / name) for name in document["files"]), tuple(document["failures"]))
    there = ids_below(place)
    wanted = videos.filter(pa.array([name not in there for name in videos["id"].to_pylist()], pa.bool_()))
    failures = _decode(wanted, sampling, size, decoding, place, stall_s) if len(wanted) else []
    files = sorted(path.name for path in place.glob("*.arrow"))  # names, not paths: the run's folder may move
    with replacing(done) as file:
        json.dump({"files": files, "failures": failures}, file)
    return ClipFiles(tuple(str(place / name) for name in files), tuple(failures))


def _decode(
    videos: pa.Table, sampling: SamplingConfig, size: int, decoding: DecodingConfig, place: Path, stall_s: int
) -> list[dict[str, str]]:
    """Decode some videos into files below `place`; returns what could not be decoded."""
    decoders, block = decoding.plan(len(videos), stall_s)
    blocks = [videos.slice(begin, block) for begin in range(0, len(videos), block)]
    with progress("decode", len(videos), "decoded") as counter:
        written = (
            ray.data.from_arrow(blocks)
            .map_batches(
                Decode,
                fn_constructor_args=(decoding, sampling, size, 0, counter),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=decoders),
            )
            .map_batches(
                _WriteClips,
                fn_constructor_args=(place,),
                batch_size=_ROWS,
                compute=ActorPoolStrategy(size=1),
            )
        )
        return [json.loads(row["failure"]) for row in written.iter_rows()]


class _WriteClips:
    """Decoded rows -> one file of clips; returns the failures among the rows."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __call__(self, batch: Batch) -> Batch:
        good = batch["fault"] == ""
        if good.any():
            tensors = {"mask": batch["mask"][good].astype(np.uint8), "pixels": batch["pixels"][good]}
            write_kept(self._place, batch["id"][good].tolist(), tensors)
        failures = [
            json.dumps({"id": str(name), "uri": str(uri), **json.loads(fault)})
            for name, uri, fault in zip(batch["id"], batch["uri"], batch["fault"], strict=True)
            if fault
        ]
        return {"failure": np.array(failures, dtype=str)}
