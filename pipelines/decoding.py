"""The first stage of the encode and train jobs: files to sampled frames.

A faulty video never raises here: it becomes a row whose `fault` says what is wrong, and travels on to the failures
table. Ray cannot tell a poisoned row from a lost machine, so exceptions are left to mean the latter.

Between the stages a missing value is an empty text or NaN, never None: a block in which a column is all None would get
another Arrow type than its neighbours. Nothing here imports torch: a decoding worker starts in a second without it.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from mgvr_core.config import Section
from mgvr_core.video.decoders import Clip, DecodeError, Request
from mgvr_core.video.sampling import SamplingConfig
from mgvr_core.video.sandbox import Limits, Sandbox
from mgvr_core.video.thumbnail import thumbnail
from pipelines.runtime import cluster_cpus

_BLOCK = 16
"""The most videos that a decoder takes at once."""

Batch = dict[str, Any]
"""Columns of a Ray Data batch: arrays whose first axis is the row."""


def fault(stage: str, kind: str, message: str) -> str:
    """What went wrong with a video, as one text to travel with its row."""
    return json.dumps({"stage": stage, "kind": kind, "message": message})


class DecodingConfig(Section):
    """How videos are decoded."""

    decoder: str = Field("pyav", description="pyav, or decord (Linux on x86-64; refuses the files it gets wrong)")
    limits: Limits = Limits()
    workers: int | None = Field(
        None, gt=0, description="decoding processes; none: all CPUs that the cluster has at the start but two"
    )

    def plan(self, rows: int, stall_s: int) -> tuple[int, int]:
        """Decoding processes on the connected cluster, and videos that one takes at once.

        Two CPUs stay free, for the model and for the writer: a pool that holds every CPU starves the other stages.
        Small blocks keep all processes busy to the end and what is in flight within memory; and a block of files that
        all run into the time limit must not look like a stalled job.
        """
        pool = self.workers or max(1, cluster_cpus() - 2)
        block = min(_BLOCK, -(-rows // (4 * pool)), int(stall_s / (2 * self.limits.timeout_s)))
        return min(pool, rows), max(1, block)


class Decode:
    """Rows of videos -> their sampled frames, padded to one shape, decoded in a child process that can be killed."""

    def __init__(
        self, decoding: DecodingConfig, sampling: SamplingConfig, size: int, thumbnail_side: int, counter: Any
    ) -> None:
        self._sandbox = Sandbox(decoding.decoder, decoding.limits)
        self._sampling = sampling
        self._size = size
        self._thumbnail_side = thumbnail_side
        self._counter = counter

    def __call__(self, table: pa.Table) -> Batch:
        rows = [self._decode(row) for row in table.to_pylist()]
        failed = sum(row["fault"] != "" for row in rows)
        self._counter.add.remote("decoded", len(rows) - failed)
        self._counter.add.remote("failed", failed)
        return {name: _column([row[name] for row in rows]) for name in rows[0]}

    def _decode(self, row: dict[str, Any]) -> dict[str, Any]:
        F, S = self._sampling.frames, self._size
        request = Request(row["uri"], self._sampling, S, row["start"], row["end"])
        result: dict[str, Any] = {
            **{name: row[name] for name in ("id", "uri", "content_hash")},
            **{name: np.nan if row[name] is None else row[name] for name in ("start", "end")},
            "fault": "",
            "duration": 0.0,
            "fps": 0.0,
            "timestamps": np.full(F, np.nan, np.float32),
            "mask": np.zeros(F, bool),
            "pixels": np.zeros((F, S, S, 3), np.uint8),
            "thumbnail": b"",
        }
        try:
            clip = self._sandbox.decode(request)
        except DecodeError as error:
            return {**result, "fault": fault("decode", error.kind, str(error))}
        n = len(clip.frames)
        result["timestamps"][:n], result["mask"][:n], result["pixels"][:n] = clip.timestamps, True, clip.frames
        duration = min(row["end"] or clip.duration, clip.duration) - (row["start"] or 0.0)
        return {**result, "duration": duration, "fps": clip.fps, "thumbnail": self._thumbnail(clip)}

    def _thumbnail(self, clip: Clip) -> bytes:
        return thumbnail(clip.frames, self._thumbnail_side) if self._thumbnail_side else b""


def _column(values: list[Any]) -> NDArray[Any]:
    """One column of a batch. Bytes stay objects: numpy's own byte strings lose trailing zeros."""
    if isinstance(values[0], bytes):
        column = np.empty(len(values), object)
        column[:] = values
        return column
    return np.stack(values) if isinstance(values[0], np.ndarray) else np.array(values)
