"""Any scorer over stored features: every video of a pool, or the candidates of stage 1; a shard at a time.

Sizes: T texts, N videos of the pool, k candidates a text, C parts of a score (`MatrixScorer.parts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.features.codec import Codec
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.tokens import tensor_of
from mgvr_core.retrieval.fine import tokens_of
from mgvr_core.scorers.scorer import ListScorer, MatrixScorer, Read, Sizes, Texts, take_videos
from mgvr_core.scoring.features import VideoFeatures

Shards = Iterable[tuple[NDArray[np.int64], VideoFeatures]]
"""The videos of a pool, shard by shard: their places (V,) in the order of ids, and their features in fp32."""

_NUMBERS = 1 << 25
"""Similarities of texts and tokens that a call may hold: 128 MiB in fp32."""


def columns_read(reads: Iterable[Read], codec: Codec | None = None) -> list[str]:
    """The columns of a set, plain or coded, that hold what a scorer reads of a video."""
    columns = ["video"] if "video" in reads else []
    for part in ("frames", "temporal", "patches"):
        if part in reads:
            columns += [part] if codec is None else codec.columns_of(part)
    return [*columns, "mask"]


def decoded(table: pa.Table, reads: frozenset[Read], codec: Codec | None = None) -> VideoFeatures:
    """Rows of a shard as a scorer reads them, in fp32; what it does not read is empty, (V, 0).

    Raises MgvrError for patches that are merged: each stands for several, which no scorer but EERCF's own knows.
    """
    if codec is not None and codec.config.tokens and "patches" in reads:
        raise MgvrError("merged patches stand for several each, which only the scorer eercf counts: take another codec")
    mask = torch.from_numpy(tensor_column(table, "mask").astype(bool))  # (V, F)
    V, F = mask.shape
    # A code of zero is not quite zero, and what belongs to a padded frame must be.
    hidden = mask.unsqueeze(-1)  # (V, F, 1)

    def vectors(part: Read) -> Tensor:
        if part not in reads:
            return torch.empty(V, 0)
        return tokens_of(table, part, codec).vectors(torch.arange(V))  # (V, N, D)

    patches = None
    if "patches" in reads:
        flat = vectors("patches")
        patches = flat.reshape(V, F, -1, flat.shape[-1]) * hidden.unsqueeze(-1)  # (V, F, P, D)
    return VideoFeatures(
        video=tensor_of(tensor_column(table, "video")).float() if "video" in reads else torch.empty(V, 0),
        frames=vectors("frames") * hidden if "frames" in reads else torch.empty(V, 0),
        temporal=vectors("temporal") * hidden if "temporal" in reads else torch.empty(V, 0),
        patches=patches,
        mask=mask,
    )


def score_pool(scorer: MatrixScorer, texts: Texts, shards: Shards, pool: int) -> Tensor:
    """The parts of all pairs: (C, T, N). `scorer.combine` makes scores of them."""
    found: Tensor | None = None
    with torch.inference_mode():
        for place, videos in shards:
            for text, video in _blocks(scorer.setting.sizes, len(texts), len(videos)):
                parts = scorer.parts(texts.take(text), take_videos(videos, video))  # (C, t, v)
                if found is None:
                    found = torch.empty(len(parts), len(texts), pool)
                found[:, text, torch.from_numpy(place[video])] = parts
    if found is None:
        raise ValueError("there is no video to score")
    return found


def score_candidates(scorer: MatrixScorer, texts: Texts, shards: Shards, index: NDArray[np.int64]) -> Tensor:
    """The parts of every text with its candidates: index (T, k) places in the order of ids -> (C, T, k).

    Each shard is read once, and each video of it is scored against all texts that recalled it together.
    """
    order = np.argsort(index, axis=None, kind="stable")  # (T * k,) pairs, by their video
    owner, starts = np.unique(index.reshape(-1)[order], return_index=True)
    pairs = dict(zip(owner.tolist(), np.split(order, starts[1:]), strict=True))
    found: Tensor | None = None
    with torch.inference_mode():
        for place, videos in shards:
            for row, video in enumerate(place.tolist()):
                if video not in pairs:
                    continue
                mine = pairs[video]
                text = torch.from_numpy(mine // index.shape[1])
                parts = scorer.parts(texts.take(text), take_videos(videos, slice(row, row + 1)))  # (C, m, 1)
                if found is None:
                    found = torch.empty(len(parts), index.size)
                found[:, torch.from_numpy(mine)] = parts[:, :, 0]
    if found is None:
        raise ValueError("no candidate is among the videos")
    return found.reshape(len(found), *index.shape)


def score_lists(
    scorer: ListScorer, texts: Texts, shards: Shards, index: NDArray[np.int64], prior: NDArray[np.float32]
) -> Tensor:
    """The scores of whole lists: index (T, k) places in the order of ids, prior (T, k) coarse scores -> (T, k).

    What the scorer reads of all videos is held at once: a list draws from everywhere.
    """
    parts = [(place, videos) for place, videos in shards]
    place = np.concatenate([each for each, _ in parts])
    row_of = np.empty(int(place.max()) + 1, np.int64)
    row_of[place] = np.arange(len(place))
    videos = _together([each for _, each in parts])
    (T, k), sizes = index.shape, scorer.setting.sizes
    at_once = max(1, _NUMBERS // max(1, k * sizes.dim * sizes.frames))
    scores = []
    with torch.inference_mode():
        for begin in range(0, T, at_once):
            some = slice(begin, begin + at_once)
            rows = torch.from_numpy(row_of[index[some]].reshape(-1))  # (t * k,)
            lists = take_videos(videos, rows)
            scores.append(scorer.score_lists(texts.take(some), lists, torch.from_numpy(prior[some])))
    return torch.cat(scores)


def _together(parts: Sequence[VideoFeatures]) -> VideoFeatures:
    def joined(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    return VideoFeatures(*(joined(name) for name in ("video", "frames", "temporal", "patches", "mask")))  # type: ignore[arg-type]


def _blocks(sizes: Sizes, texts: int, videos: int) -> Iterable[tuple[slice, slice]]:
    """Blocks of texts and videos whose similarities, word by token, fit."""
    tokens = max(1, sizes.frames * max(1, sizes.patches), sizes.frames * sizes.words)
    v = max(1, min(videos, 64))
    t = max(1, _NUMBERS // (v * tokens))
    for begin in range(0, texts, t):
        for first in range(0, videos, v):
            yield slice(begin, min(begin + t, texts)), slice(first, min(first + v, videos))
