"""Rows on disk by the ids of their videos, memory-mapped: decoded clips, or features of a set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgvr_core.features.schema import tensor_column
from mgvr_core.files import placing
from mgvr_core.identity import hash_json
from mgvr_core.model.eercf import EERCF
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.video.preprocess import PreprocessConfig


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


def write_kept(folder: Path, ids: list[str], tensors: Mapping[str, NDArray[Any]]) -> Path:
    """Write some videos' rows as one Arrow file, whole or not at all; its name is made of the ids."""
    columns = {
        name: pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
        for name, values in tensors.items()
    }
    table = pa.table({"id": pa.array(ids), **columns})
    path = folder / f"{hash_json(ids)[:32]}.arrow"
    with placing(path) as partial, pa.ipc.new_file(partial, table.schema) as writer:
        writer.write_table(table)
    return path


def ids_below(folder: Path) -> dict[str, Path]:
    """The videos whose rows are in a folder's files, and in which. A file that has its name is whole."""
    return {
        name: path
        for path in sorted(folder.glob("*.arrow"))
        for name in pa.ipc.open_file(pa.memory_map(str(path))).read_all()["id"].to_pylist()
    }
