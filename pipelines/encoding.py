"""The stages of the encode job: each a class or function that Ray Data maps over rows of videos.

A faulty video never raises here: it becomes a row whose `fault` says what is wrong, and travels on to the failures
table. Ray cannot tell a poisoned row from a lost machine, so exceptions are left to mean the latter.

Between the stages a missing value is an empty text or NaN, never None: a block in which a column is all None would get
another Arrow type than its neighbours.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field

from mgvr_core.config import Section
from mgvr_core.features.schema import FeatureShape, build_table, feature_schema
from mgvr_core.features.store import FAILURE_SCHEMA, FeatureStore, ShardInfo
from mgvr_core.identity import Fingerprint, hash_file
from mgvr_core.model.load import ModelConfig
from mgvr_core.video.decoders import Clip, DecodeError, Request, require_regular_file
from mgvr_core.video.sampling import SamplingConfig
from mgvr_core.video.sandbox import Limits, Sandbox
from mgvr_core.video.thumbnail import thumbnail
from pipelines.models import MODEL_PARTS, ComputeConfig, cached_model, model_fingerprint, preprocessing
from pipelines.runtime import cluster_cpus

Batch = dict[str, Any]
"""Columns of a Ray Data batch: arrays whose first axis is the row."""


def identify(table: pa.Table) -> pa.Table:
    """Add each file's content hash, or the fault that kept it from being read. Rows of `list_videos`."""
    hashes: list[str] = []
    faults: list[str] = []
    for uri in table["uri"].to_pylist():
        try:
            require_regular_file(uri)
            hashes.append(hash_file(Path(uri)))
            faults.append("")
        except (DecodeError, OSError) as error:
            kind = error.kind if isinstance(error, DecodeError) else "missing"
            hashes.append("")
            faults.append(fault("read", kind, str(error)))
    table = table.append_column("content_hash", pa.array(hashes, pa.string()))
    return table.append_column("fault", pa.array(faults, pa.string()))


def fault(stage: str, kind: str, message: str) -> str:
    """What went wrong with a video, as one text to travel with its row."""
    return json.dumps({"stage": stage, "kind": kind, "message": message})


class DecodingConfig(Section):
    """How videos are decoded."""

    decoder: str = Field("pyav", description="pyav, or decord (Linux on x86-64; refuses the files it gets wrong)")
    limits: Limits = Limits()
    workers: int | None = Field(None, gt=0, description="decoding processes; none: all CPUs of the cluster but two")

    def pool(self) -> int:
        """Decoding processes on the connected cluster.

        Two CPUs stay free, for the model and for the writer: a pool that holds every CPU starves the other stages.
        """
        return self.workers or max(1, cluster_cpus() - 2)


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
        return {**result, "duration": clip.duration, "fps": clip.fps, "thumbnail": self._thumbnail(clip)}

    def _thumbnail(self, clip: Clip) -> bytes:
        return thumbnail(clip.frames, self._thumbnail_side) if self._thumbnail_side else b""


class Encode:
    """Decoded rows -> feature rows, by the model on one device."""

    def __init__(
        self, model: ModelConfig, expected: Fingerprint, compute: ComputeConfig, shape: FeatureShape, counter: Any
    ) -> None:
        self._device, self._compute = compute.torch_device(), compute
        torch.set_num_threads(compute.threads or os.cpu_count() or 1)
        self._model = cached_model(model).model.to(self._device)
        found = expected.differences(model_fingerprint(self._model), names=MODEL_PARTS)
        if found:
            raise RuntimeError(f"this node loaded another model than the driver: {'; '.join(found)}")
        self._preprocess = preprocessing(self._model.spec)
        self._shape = shape
        self._counter = counter

    def __call__(self, batch: Batch) -> Batch:
        pixels, mask = batch.pop("pixels"), batch["mask"].astype(bool)
        good = batch["fault"] == ""
        features = self._features(pixels[good], mask[good]) if good.any() else {}
        for name, shape in self._columns().items():
            values = np.zeros((len(good), *shape), np.float16)
            if name in features:
                values[good] = features[name]
            batch[name] = values
        self._counter.add.remote("encoded", int(good.sum()))
        return batch

    def _features(self, pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> dict[str, NDArray[np.float16]]:
        valid = torch.from_numpy(mask).to(self._device)
        images = self._preprocess.normalise(torch.from_numpy(pixels).to(self._device))  # (B, F, 3, S, S)
        with torch.inference_mode(), self._compute.autocast():
            made = self._model.encode_videos(images, valid, patches=self._shape.patches > 0)
        columns = {"video": made.video, "frames": made.frames, "temporal": made.temporal}
        if made.patches is not None:
            columns["patches"] = made.patches
        return {name: values.half().cpu().numpy() for name, values in columns.items()}

    def _columns(self) -> dict[str, tuple[int, ...]]:
        F, D, P = self._shape.frames, self._shape.dim, self._shape.patches
        columns: dict[str, tuple[int, ...]] = {"video": (D,), "frames": (F, D), "temporal": (F, D)}
        return columns | {"patches": (F, P, D)} if P else columns


class Write:
    """Feature rows -> one shard, failed rows -> one table of failures; returns what was written."""

    def __init__(self, root: str, shape: FeatureShape, fingerprint: Fingerprint, decoder: str) -> None:
        self._store = FeatureStore(Path(root))
        self._schema = feature_schema(shape, fingerprint)
        self._decoder = decoder

    def __call__(self, batch: Batch) -> Batch:
        good = batch["fault"] == ""
        written: list[tuple[str, ShardInfo]] = []
        if good.any():
            columns = {name: batch[name][good] for name in self._schema.names}
            for name in ("start", "end", "thumbnail"):
                columns[name] = [_or_none(value) for value in columns[name]]
            table = build_table(columns, self._schema)
            written.append(("shard", self._store.write_shard(table)))
        if not good.all():
            rows = [{name: values[row] for name, values in batch.items()} for row in np.flatnonzero(~good)]
            written.append(("failures", self._store.write_failures(failures_table(rows, self._decoder))))
        return {
            "kind": np.array([kind for kind, _ in written]),
            "info": np.array([json.dumps(asdict(info)) for _, info in written]),
        }


def failures_table(rows: list[dict[str, Any]], decoder: str) -> pa.Table:
    """Failed rows as a table of `FAILURE_SCHEMA`."""
    records = [
        {
            **{name: _or_none(row[name]) for name in ("id", "uri", "start", "end")},
            **json.loads(row["fault"]),
            "decoder": decoder,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(records, schema=FAILURE_SCHEMA)


def _column(values: list[Any]) -> NDArray[Any]:
    """One column of a batch. Bytes stay objects: numpy's own byte strings lose trailing zeros."""
    if isinstance(values[0], bytes):
        column = np.empty(len(values), object)
        column[:] = values
        return column
    return np.stack(values) if isinstance(values[0], np.ndarray) else np.array(values)


def _or_none(value: Any) -> Any:
    """A missing value as Arrow writes it."""
    return None if value in ("", b"") or value != value else value
