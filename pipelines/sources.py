"""Clips that are decoded while the model is at work.

Clips kept on disk and features (kept.py) and clips decoded on the way give the same batches in the same order, which is
the caller's, so that what a step sees depends on nothing but the seed and the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data import ActorPoolStrategy, DataContext

from mgvr_core.video.sampling import SamplingConfig
from pipelines.decoding import Decode, DecodingConfig
from pipelines.kept import Inputs
from pipelines.progress import Silent

_AHEAD = 2
"""Batches that Ray Data makes ready while the model is at work."""


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
