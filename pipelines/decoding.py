"""The first stage of the encode and train jobs: files to sampled frames.

A faulty video never raises here: it becomes a row whose `fault` says what is wrong, and travels on to the failures
table. Ray cannot tell a poisoned row from a lost machine, so exceptions are left to mean the latter.

Between the stages a missing value is an empty text or NaN, never None: a block in which a column is all None would get
another Arrow type than its neighbours. Nothing here imports torch: a decoding worker starts in a second without it.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from mgvr_core.config import Section
from mgvr_core.corpus.files import Trouble, local_copy, look_at, persist, trouble
from mgvr_core.features.contents import now
from mgvr_core.scratch import sweep
from mgvr_core.video.decoders import FAULTS, Clip, DecodeError, Request, chain_version
from mgvr_core.video.sampling import SamplingConfig
from mgvr_core.video.sandbox import Limits, Sandbox
from mgvr_core.video.thumbnail import thumbnail
from pipelines.memory import peak_memory
from pipelines.runtime import cluster_cpus

_BLOCK = 16
"""The most videos that a decoder takes at once."""

Batch = dict[str, Any]
"""Columns of a Ray Data batch: arrays whose first axis is the row."""


def fault(stage: str, kind: str, message: str, attempts: int = 1) -> str:
    """What went wrong with a video, as one text to travel with its row."""
    return json.dumps({"stage": stage, "kind": kind, "message": message, "attempts": attempts, "at": now()})


class DecodingConfig(Section):
    """How videos are decoded."""

    decoder: str = Field("pyav", description="pyav, or decord (Linux on x86-64; refuses the files it gets wrong)")
    fallback: str = Field(
        "auto", description="takes the files that the decoder refuses; auto: pyav behind any other decoder; none"
    )
    limits: Limits = Limits()
    attempts: int = Field(3, gt=0, description="times a file is tried where the trouble may pass: network, memory")
    backoff_s: float = Field(1.0, ge=0, description="seconds before the second try; doubled for each one after")
    workers: int | None = Field(
        None, gt=0, description="decoding processes; none: the CPUs that the cluster has and no other stage takes"
    )

    @property
    def second(self) -> str | None:
        """The fallback by its name, if there is one."""
        if self.fallback == "auto":
            return None if self.decoder == "pyav" else "pyav"
        return None if self.fallback == "none" else self.fallback

    @property
    def names(self) -> str:
        """The decoder, and its fallback if there is one."""
        return ", ".join(filter(None, (self.decoder, self.second)))

    def version(self) -> str:
        """Decoders and versions for the fingerprint; raises MgvrError for one that is not there."""
        return chain_version(self.decoder, self.second)

    def sandbox(self) -> Sandbox:
        """A sandbox that decodes as configured."""
        return Sandbox(self.decoder, self.limits, fallback=self.second)

    def plan(self, rows: int, stall_s: int, others: int = 2) -> tuple[int, int]:
        """Decoding processes on the connected cluster, and videos that one takes at once.

        `others` CPUs stay free, one for each actor of the other stages: a pool that holds every CPU starves them.
        Small blocks keep all processes busy to the end and what is in flight within memory; and a block of files that
        all run into the time limit must not look like a stalled job. A block is a power of two, so that a model's
        batches are made of whole blocks: out of blocks of 15, batches of 32 would come as 32, 13, 32, 13.
        """
        pool = self.workers or max(1, cluster_cpus() - others)
        most = min(_BLOCK, -(-rows // (4 * pool)), int(stall_s / (2 * self.limits.timeout_s)))
        return min(pool, rows), 1 << (max(1, most).bit_length() - 1)


class Decode:
    """Rows of videos -> their sampled frames, padded to one shape, decoded in a child process that can be killed."""

    def __init__(
        self,
        decoding: DecodingConfig,
        sampling: SamplingConfig,
        size: int,
        thumbnail_side: int,
        counter: Any,
        expected: str | None = None,
    ) -> None:
        """`expected`: what `decoding.version()` was on the driver. Rows may say how their files looked there."""
        sweep()
        self._sandbox = decoding.sandbox()
        self._version: str | None = None
        self._decoding = decoding
        self._expected = expected
        self._sampling = sampling
        self._size = size
        self._thumbnail_side = thumbnail_side
        self._counter = counter

    def close(self) -> None:
        """End the decoder's process; Ray's workers need not, since it ends with theirs."""
        self._sandbox.close()

    def __call__(self, table: pa.Table) -> Batch:
        began = time.perf_counter()
        rows = [self._decode(row) for row in table.to_pylist()]
        failed = sum(row["fault"] != "" for row in rows)
        self._counter.add.remote("decoded", len(rows) - failed)
        self._counter.add.remote("failed", failed)
        measures = {"decode_s": time.perf_counter() - began, "video_s": sum(row["duration"] for row in rows)}
        self._counter.measure.remote(measures, *peak_memory())
        return {name: _column([row[name] for row in rows]) for name in rows[0]}

    def _decode(self, row: dict[str, Any]) -> dict[str, Any]:
        F, S = self._sampling.frames, self._size
        result: dict[str, Any] = {
            **{name: row[name] for name in ("id", "uri", "content_hash")},
            **{name: np.nan if row[name] is None else row[name] for name in ("start", "end")},
            "fault": "",
            "duration": 0.0,
            "fps": 0.0,
            "decoder": "",
            "timestamps": np.full(F, np.nan, np.float32),
            "mask": np.zeros(F, bool),
            "pixels": np.zeros((F, S, S, 3), np.uint8),
            "thumbnail": b"",
        }
        clip, attempts = persist(lambda: self._clip(row), self._decoding.attempts, self._decoding.backoff_s)
        if isinstance(clip, Clip):
            clip = self._unless_changed(row, clip)
        if isinstance(clip, Trouble):
            return {**result, "fault": fault("decode", clip.kind, clip.message, attempts)}
        n = len(clip.frames)
        result["timestamps"][:n], result["mask"][:n], result["pixels"][:n] = clip.timestamps, True, clip.frames
        duration = min(row["end"] or clip.duration, clip.duration) - (row["start"] or 0.0)
        found = {"duration": duration, "fps": clip.fps, "decoder": clip.decoder, "thumbnail": self._thumbnail(clip)}
        return {**result, **found}

    def _clip(self, row: dict[str, Any]) -> Clip | Trouble:
        uri = row["uri"]
        try:
            self._require_version()
            with local_copy(uri) as path:
                try:
                    return self._sandbox.decode(Request(path, self._sampling, self._size, row["start"], row["end"]))
                except DecodeError as error:
                    # The user knows the address, not the copy.
                    return Trouble(error.kind, str(error).replace(path, uri))
        except (DecodeError, OSError) as error:
            return trouble(uri, error)

    def _require_version(self) -> None:
        """Raise RuntimeError where this node decodes otherwise than the driver, whose fingerprint the features get."""
        if self._version is None:
            self._version = self._sandbox.version()
            if self._expected is not None and self._version != self._expected:
                raise RuntimeError(f"this node decodes by {self._version}, the driver by {self._expected}")

    def _unless_changed(self, row: dict[str, Any], clip: Clip) -> Clip | Trouble:
        """The clip, if the file still looks as it did when its content was hashed: else it is of something else."""
        if row.get("version") is None:
            return clip
        seen = look_at(row["uri"])
        if isinstance(seen, Trouble) or (seen.size, seen.version) != (row["size"], row["version"]):
            return Trouble("changed", f"{row['uri']}: {FAULTS['changed']}")
        return clip

    def _thumbnail(self, clip: Clip) -> bytes:
        return thumbnail(clip.frames, self._thumbnail_side) if self._thumbnail_side else b""


def _column(values: list[Any]) -> NDArray[Any]:
    """One column of a batch. Bytes stay objects: numpy's own byte strings lose trailing zeros."""
    if isinstance(values[0], bytes):
        column = np.empty(len(values), object)
        column[:] = values
        return column
    return np.stack(values) if isinstance(values[0], np.ndarray) else np.array(values)
