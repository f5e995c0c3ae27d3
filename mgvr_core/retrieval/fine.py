"""The videos of one shard as stage 2 reads them: tokens at three granularities, in whichever code they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgvr_core.features.codec import Codec
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.tokens import DenseTokens, Int8Tokens, PqTokens, Tokens, tensor_of
from mgvr_core.scoring.tib import gram


@dataclass(frozen=True)
class FineShard:
    """V videos of one shard."""

    video: Tensor
    """v^ (V, D), as stored."""
    frames: Tokens
    temporal: Tokens
    patches: Tokens | None
    """N = F * P tokens, frame by frame; None where they were not read."""
    frame_mask: Tensor | None
    """(V, F) bool: True where there is a frame; None: everywhere."""
    patch_mask: Tensor | None
    """(V, N) bool, or None: everywhere."""
    patch_counts: Tensor | None
    """(V, N) float32: how many patches a merged token stands for; None: one each."""
    stored_gram: Tensor | None
    """(V, F, F) float32 of the temporal frames, where the code keeps it."""

    def __len__(self) -> int:
        return len(self.video)

    @property
    def bytes(self) -> int:
        """What one video takes while its products are made."""
        return sum(tokens.bytes for tokens in (self.frames, self.temporal, self.patches) if tokens is not None)

    def gram(self, videos: Tensor) -> Tensor:
        """G of the temporal frames of some videos: (B,) -> (B, F, F)."""
        return gram(self.temporal.vectors(videos)) if self.stored_gram is None else self.stored_gram[videos]

    def to(self, device: torch.device) -> FineShard:
        """The same on another device."""

        def moved(value: Any) -> Any:
            return None if value is None else value.to(device)

        return FineShard(*(moved(getattr(self, name)) for name in self.__dataclass_fields__))


def fine_columns(patches: bool, codec: Codec | None) -> list[str]:
    """The columns that a rerank reads, of plain sets (no codec) or coded ones."""
    parts = ["frames", "temporal", *(["patches"] if patches else [])]
    if codec is None:
        return ["video", *parts, "mask"]
    return ["video", *(name for part in parts for name in codec.columns_of(part)), "mask"]


def fine_shard(table: pa.Table, codec: Codec | None = None) -> FineShard:
    """Rows of a shard; without patches where the table has no such column."""
    mask = torch.from_numpy(tensor_column(table, "mask").astype(bool))  # (V, F)
    V, F = mask.shape
    patches = counts = patch_mask = None
    if "patches" in table.column_names:
        patches = tokens_of(table, "patches", codec)
        per_frame = patches.number // F
        if codec is not None and "patch_counts" in table.column_names:
            counts = torch.from_numpy(tensor_column(table, "patch_counts").reshape(V, -1).astype(np.float32))
            patch_mask = counts > 0
        else:
            patch_mask = mask.repeat_interleave(per_frame, dim=-1)
    return FineShard(
        video=tensor_of(tensor_column(table, "video")),
        frames=tokens_of(table, "frames", codec),
        temporal=tokens_of(table, "temporal", codec),
        patches=patches,
        frame_mask=None if bool(mask.all()) else mask,
        patch_mask=None if patch_mask is None or bool(patch_mask.all()) else patch_mask,
        patch_counts=counts,
        stored_gram=_square(tensor_column(table, "temporal_gram"), F)
        if "temporal_gram" in table.column_names
        else None,
    )


def tokens_of(table: pa.Table, part: str, codec: Codec | None = None) -> Tokens:
    """The tokens of one granularity (frames, temporal, patches) of all rows of a shard."""
    values = tensor_column(table, part)
    V = len(values)
    flat = tensor_of(values.reshape(V, -1, values.shape[-1]))  # (V, N, D or M)
    if codec is None or codec.config.values == "fp16":
        return DenseTokens(flat)
    if codec.config.values == "int8":
        return Int8Tokens(flat, tensor_of(tensor_column(table, f"{part}_scale").reshape(V, -1)))
    return PqTokens(flat, codec.codebook(part), codec.rotation(part))


def _square(triangle: NDArray[np.float32], F: int) -> Tensor:
    """The upper triangles of symmetric matrices (V, F (F + 1) / 2) -> (V, F, F)."""
    row, column = np.triu_indices(F)
    full = np.empty((len(triangle), F, F), np.float32)
    full[:, row, column] = full[:, column, row] = triangle
    return torch.from_numpy(full)
