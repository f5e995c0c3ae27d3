"""Stage 2: the fused score of candidate pairs, one shard of videos at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgvr_core.features.schema import tensor_column
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.fusion import FusionWeights, fuse, score_each


@dataclass(frozen=True)
class Reranker:
    """What the fused score needs beside the features."""

    weights: FusionWeights
    projection: Tensor
    """W (D, D) float32."""
    mixing: Tensor | None
    """U (F, F) float32, or None for the identity."""

    @property
    def columns(self) -> list[str]:
        """The feature columns that the weighted scores read."""
        fine = ["video", "frames", "temporal", "mask"]
        return [*fine, "patches"] if self.weights.needs_patches else fine


def features_from_table(table: pa.Table) -> VideoFeatures:
    """Rows of a shard as fp32 tensors; without patches where the table has no such column."""

    def tensor(name: str) -> Tensor:
        # (n, …) stored as fp16, computed in fp32
        return torch.from_numpy(tensor_column(table, name).astype(np.float32))

    return VideoFeatures(
        video=tensor("video"),
        frames=tensor("frames"),
        temporal=tensor("temporal"),
        patches=tensor("patches") if "patches" in table.column_names else None,
        mask=torch.from_numpy(tensor_column(table, "mask").astype(bool)),
    )


def score_pairs(
    reranker: Reranker, text: Tensor, table: pa.Table, query: NDArray[np.int64], video: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Scores of (query, video) pairs: text (T, D) unit length, `query` rows of it, `video` rows of `table`, each (M,).

    Returns every weighted score and `fused`, each (M,). A video is read once and scored against all its queries in one
    matrix product; the sums run in fp32.
    """
    names = [*reranker.weights.active, "fused"]
    result = {name: np.empty(len(query), np.float32) for name in names}
    order = np.argsort(video, kind="stable")
    starts = np.flatnonzero(np.diff(video[order], prepend=-1))
    for pairs in np.split(order, starts[1:]) if len(order) else []:
        scores = score_each(
            text[torch.from_numpy(query[pairs])],
            features_from_table(table.slice(int(video[pairs[0]]), 1)),
            reranker.projection,
            reranker.mixing,
            reranker.weights,
        )
        scores["fused"] = fuse(scores, reranker.weights)
        for name, values in scores.items():
            result[name][pairs] = values[:, 0].numpy()  # (n, 1) -> (n,)
    return result
