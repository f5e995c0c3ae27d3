"""Stage 2: the fused score of candidate pairs, one shard of videos at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgvr_core.features.codec import Codec
from mgvr_core.features.tokens import Asking, Texts
from mgvr_core.products import product
from mgvr_core.retrieval.fine import FineShard, fine_columns
from mgvr_core.scoring.frame_weak import frame_weak_of
from mgvr_core.scoring.fusion import FusionWeights, fuse
from mgvr_core.scoring.patch_weak import patch_attention, patch_weak_of
from mgvr_core.scoring.tib_frame import tib_frame_of
from mgvr_core.scoring.tib_patch import tib_patch_of

_AT_ONCE = 16 << 20
"""Bytes of decoded tokens, or of similarities, in hand at once: about what a CPU's caches hold."""
_STEP = 8
"""Texts a video are padded to multiples of it, so that videos with about as many share a product."""


@dataclass(frozen=True)
class Reranker:
    """What the fused score needs beside the features."""

    weights: FusionWeights
    projection: Tensor
    """W (D, D) float32."""
    mixing: Tensor | None
    """U (F, F) float32, or None for the identity."""

    def texts(self, text: Tensor) -> Texts:
        """Unit text vectors (T, D) float32 as both stages need them."""
        return Texts(text, product(text.unsqueeze(0), self.projection.T.to(text.device).unsqueeze(0)).squeeze(0))

    def columns(self, codec: Codec | None = None) -> list[str]:
        """The feature columns that the weighted scores read."""
        return fine_columns(self.weights.needs_patches, codec)


def score_pairs(
    reranker: Reranker, texts: Texts, shard: FineShard, query: NDArray[np.int64], video: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Scores of (query, video) pairs: `query` rows of `texts`, `video` rows of `shard`, each (M,).

    Returns every weighted score and `fused`, each (M,). Every video is read once and meets all its texts in one matrix
    product; the sums run in fp32. A pair's bits depend neither on the other pairs nor on how a set is cut into
    shards, as far as the library's matrix product sums in one order (on x86 it does; see the tests).

    Raises ValueError where a patch score has a weight and the shard has no patches.
    """
    weights = reranker.weights
    if weights.needs_patches and shard.patches is None:
        raise ValueError("a patch score has a weight, but the videos have no patch features")
    result = {name: np.empty(len(query), np.float32) for name in [*weights.active, "fused"]}
    device = texts.text.device

    def score(batch: tuple[NDArray[np.int64], NDArray[np.int64]]) -> None:
        pairs, rows = batch
        with torch.inference_mode():
            of_text = torch.from_numpy(query[pairs]).to(device)  # (B, n)
            scores = _scores(reranker, Asking(texts, of_text), shard, torch.from_numpy(rows).to(device))
            scores["fused"] = fuse(scores, weights)
        for name, values in scores.items():
            result[name][pairs] = values.cpu().numpy()  # places that pad hold the same pair once more

    batches, threads = _batches(query, video, shard), torch.get_num_threads()
    if threads == 1 or device.type != "cpu":
        for batch in batches:
            score(batch)
        return result
    # Each thread has batches of its own: what a batch computes is too little to be shared out in its every step.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(score, batches):
            pass
    return result


def _batches(
    query: NDArray[np.int64], video: NDArray[np.int64], shard: FineShard
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The pairs in batches of B videos that meet n texts each: (B, n) places of the pairs, (B,) videos.

    A video's texts are padded by repeating one of them.
    """
    order = np.argsort(video, kind="stable")
    rows, starts, counts = np.unique(video[order], return_index=True, return_counts=True)
    padded = np.where(counts <= _STEP, counts, -(-counts // _STEP) * _STEP)
    N = max(tokens.number for tokens in (shard.frames, shard.temporal, shard.patches) if tokens is not None)
    for n in np.unique(padded):
        mine = np.flatnonzero(padded == n)
        most = max(1, _AT_ONCE // max(shard.bytes, int(4 * n * N)))
        for begin in range(0, len(mine), most):
            batch = mine[begin : begin + most]
            place = np.minimum(np.arange(n), counts[batch, None] - 1)  # (B, n)
            yield order[starts[batch, None] + place], rows[batch]


def _scores(reranker: Reranker, asking: Asking, shard: FineShard, video: Tensor) -> dict[str, Tensor]:
    """Every score that has a weight, of videos (B,) with the n texts that each meets -> name -> (B, n)."""
    weights = reranker.weights
    scores: dict[str, Tensor] = {}
    if weights.video:
        coarse = shard.video[video].float().unsqueeze(1)  # (B, 1, D)
        scores["video"] = product(asking.projected, coarse).squeeze(-1)
    if weights.frame_weak or weights.tib_frame:
        frames = shard.frames.similarity(asking, video)  # (B, n, F)
        mask = None if shard.frame_mask is None else shard.frame_mask[video]  # (B, F)
        frames = frames.transpose(0, 1)  # (n, B, F), as the scores have it: texts first
        if weights.frame_weak:
            mixing = None if reranker.mixing is None else reranker.mixing.to(frames.device)
            scores["frame_weak"] = frame_weak_of(frames, mask, mixing).T
        if weights.tib_frame:
            temporal = shard.temporal.similarity(asking, video).transpose(0, 1)
            scores["tib_frame"] = tib_frame_of(frames, temporal, mask, shard.gram(video)).T
    if weights.needs_patches and shard.patches is not None:
        patches = shard.patches.similarity(asking, video)  # (B, n, N), and left so: the largest by far
        valid = None if shard.patch_mask is None else shard.patch_mask[video].unsqueeze(1)
        counts = None if shard.patch_counts is None else shard.patch_counts[video].unsqueeze(1)
        attention = patch_attention(patches, valid, counts)
        if weights.patch_weak:
            scores["patch_weak"] = patch_weak_of(patches, attention)
        if weights.tib_patch:
            vectors = shard.patches.vectors(video)
            scores["tib_patch"] = tib_patch_of(patches.transpose(0, 1), attention.transpose(0, 1), vectors).T
    return scores
