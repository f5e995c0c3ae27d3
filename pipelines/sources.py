"""Where training gets its videos from, batch by batch: clips kept on disk, clips decoded on the way, or features.

All three give the same batches in the same order, which is the caller's, so that what a step sees depends on nothing
but the seed and the epoch.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import ray.data
import torch
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext
from torch import Tensor

from mgvr_core.features.schema import tensor_column
from mgvr_core.model.eercf import EERCF
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.video.preprocess import PreprocessConfig
from mgvr_core.video.sampling import SamplingConfig
from pipelines.decoding import Decode, DecodingConfig
from pipelines.progress import Silent

_AHEAD = 2
"""Batches that are made ready while the model is at work."""

T = TypeVar("T")


@dataclass(frozen=True)
class Inputs:
    """What a model reads of some videos, on the CPU: pixels, or what CLIP has made of them."""

    mask: Tensor
    """(b, F) bool: where there is a frame."""
    pixels: Tensor | None = None
    """(b, F, S, S, 3) uint8."""
    frames: Tensor | None = None
    """(b, F, D) fp32, unnormalised."""
    patches: Tensor | None = None
    """(b, F, P, D) fp16 of unit length, where they were kept."""
    valid: Tensor | None = None
    """(b,) bool: False where a video could not be decoded. None: all could."""

    def features(self, rows: slice, model: EERCF, preprocess: PreprocessConfig, patches: bool) -> VideoFeatures:
        """The features of some rows, in fp32, on the model's device."""
        device = model.video_projection.device
        mask = self.mask[rows].to(device, non_blocking=True)
        if self.pixels is not None:
            images = preprocess.normalise(self.pixels[rows].to(device, non_blocking=True))  # (b, F, 3, S, S)
            made = model.encode_videos(images, mask, patches)
        else:
            assert self.frames is not None
            stored = self.patches[rows].to(device).float() if patches and self.patches is not None else None
            made = model.video_features(self.frames[rows].to(device), stored, mask)
        return VideoFeatures(
            video=made.video.float(),
            frames=made.frames.float(),
            temporal=made.temporal.float(),
            patches=None if made.patches is None else made.patches.float(),
            mask=made.mask,
        )


class Source(Protocol):
    """Gives videos by their ids."""

    def batches(self, ids: Sequence[Sequence[str]]) -> Iterator[Inputs]:
        """The videos of each batch, in order."""


class Kept:
    """Rows on disk by the ids of their videos, memory-mapped: clips (mask, pixels) or features (mask, frames, …)."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._tables = [pa.ipc.open_file(pa.memory_map(path)).read_all() for path in paths]

    @cached_property
    def place(self) -> dict[str, tuple[int, int]]:
        """Where each video is: file and row."""
        return {
            name: (number, row)
            for number, table in enumerate(self._tables)
            for row, name in enumerate(table["id"].to_pylist())
        }

    @cached_property
    def _arrays(self) -> list[dict[str, NDArray[Any]]]:
        return [
            {name: tensor_column(table, name) for name in table.schema.names if name != "id"} for table in self._tables
        ]

    def read(self, ids: Sequence[str]) -> Inputs:
        """Some videos, in the order of `ids`."""
        places = [self.place[name] for name in ids]
        columns = {
            name: torch.from_numpy(np.stack([self._arrays[number][name][row] for number, row in places]))
            for name in self._arrays[0]
        }
        mask = columns.pop("mask").bool()
        if "frame_norms" in columns:  # (b, F) lengths that the features were divided by
            columns["frames"] = columns["frames"].float() * columns.pop("frame_norms").unsqueeze(-1)
        return Inputs(mask, **columns)

    def batches(self, ids: Sequence[Sequence[str]]) -> Iterator[Inputs]:
        return (self.read(names) for names in ids)


@dataclass(frozen=True)
class KeptFiles:
    """`Kept`, before it is opened on a worker."""

    paths: tuple[str, ...]

    def open(self, workers: int) -> Kept:
        return Kept(self.paths)


class Streamed:
    """Clips that are decoded while the model is at work, by a Ray Data pipeline of this worker alone."""

    def __init__(self, stream: Stream, workers: int) -> None:
        self._stream, self._workers = stream, workers
        self._row = {name: row for row, name in enumerate(stream.videos["id"].to_pylist())}

    def batches(self, ids: Sequence[Sequence[str]]) -> Iterator[Inputs]:
        if not ids:
            return
        stream, size = self._stream, len(ids[0])
        videos = stream.videos.take(pa.array([self._row[name] for names in ids for name in names]))
        pool, block = stream.decoding.plan(len(videos), stream.stall_s, others=self._workers)
        # Every worker has decoders of its own, and they share the cluster.
        pool = max(1, pool // self._workers)
        context = DataContext.get_current()
        context.execution_options.preserve_order = True  # the order of the rows is the order of the steps
        context.enable_progress_bars = False
        context.execution_no_progress_timeout_s = stream.stall_s
        decoded = ray.data.from_arrow(
            [videos.slice(begin, block) for begin in range(0, len(videos), block)]
        ).map_batches(
            Decode,
            fn_constructor_args=(stream.decoding, stream.sampling, stream.size, 0, Silent()),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=pool),
        )
        for batch, names in zip(decoded.iter_batches(batch_size=size, prefetch_batches=_AHEAD), ids, strict=True):
            if list(batch["id"]) != list(names):  # a step on other pairs would be trained without a word
                raise RuntimeError("Ray Data gave the videos in another order than they were asked for")
            good = batch["fault"] == ""
            for uri, fault in zip(batch["uri"][~good], batch["fault"][~good], strict=True):
                stream.failed(str(uri), str(fault))
            yield Inputs(
                torch.from_numpy(batch["mask"].astype(bool)),
                pixels=torch.from_numpy(np.ascontiguousarray(batch["pixels"])),
                valid=torch.from_numpy(good.astype(bool)),
            )


@dataclass(frozen=True)
class Stream:
    """`Streamed`, before it is opened on a worker."""

    videos: pa.Table
    """Rows of `unique_videos`."""
    sampling: SamplingConfig
    size: int
    decoding: DecodingConfig
    stall_s: int
    faults: str
    """File that gets a line for every video that can't be decoded."""

    def open(self, workers: int) -> Streamed:
        return Streamed(self, workers)

    def failed(self, uri: str, fault: str) -> None:
        """Note a video that can't be decoded."""
        with open(self.faults, "a", encoding="utf-8") as file:  # noqa: PTH123 - one write a line, by several workers
            file.write(json.dumps({"uri": uri, **json.loads(fault)}) + "\n")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, made by a thread of their own a little before they are asked for."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put((item, error), timeout=1)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put(item, None)
                if stopped.is_set():
                    return
            put(None, None)
        except BaseException as error:  # whatever it is belongs to the one who waits for the item
            put(None, error)

    threading.Thread(target=make, daemon=True).start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
