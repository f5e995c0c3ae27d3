"""What several scorers share: similarities of words, what to do with padding, and how to stay within memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mgvr_core.scorers.scorer import Texts, take_videos
from mgvr_core.scoring.features import VideoFeatures

MOST_NUMBERS = 2**24
"""Numbers that one tensor inside a scorer may hold: 64 MiB in float32, of which a handful exist at a time."""


def words_of(texts: Texts) -> tuple[Tensor, Tensor]:
    """w^ (T, L, D) and its mask (T, L), L words of the longest text, without the places that no text uses.

    A tokenizer pads to what the model takes, and all that is made of a pair is as large as L. Raises ValueError where
    the texts came without words.
    """
    if texts.words is None or texts.word_mask is None:
        raise ValueError("this scorer reads words, but the texts came without them")
    used = texts.word_mask.any(dim=0).nonzero()
    longest = int(used[-1]) + 1 if len(used) else 0
    return texts.words[:, :longest], texts.word_mask[:, :longest]


def patches_of(videos: VideoFeatures) -> Tensor:
    """p^ (V, F, P, D); raises ValueError where the videos came without patches."""
    if videos.patches is None:
        raise ValueError("this scorer reads patches, but the videos came without them")
    return videos.patches


def by_blocks(score: Callable[[VideoFeatures], Tensor], videos: VideoFeatures, numbers: int) -> Tensor:
    """`score` of V videos, as many at a time as memory allows: (..., n) of each n of them -> (..., V).

    numbers: how many the largest tensor inside holds for one video. With one video a call is as large as it is.
    """
    step = max(1, MOST_NUMBERS // numbers)
    if len(videos) <= step:
        return score(videos)
    starts = range(0, len(videos), step)
    return torch.cat([score(take_videos(videos, slice(start, start + step))) for start in starts], dim=-1)


def word_similarity(words: Tensor, frames: Tensor) -> Tensor:
    """<w^_i, f^_j> of every pair: words (T, L, D), frames (V, F, D) -> (T, V, L, F)."""
    (T, L, D), (V, F, _) = words.shape, frames.shape
    flat = words.reshape(T * L, D) @ frames.reshape(V * F, D).T  # (T*L, V*F)
    return flat.reshape(T, L, V, F).transpose(1, 2)


def masked_max(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    """The largest valid value along `dim`: values (...), mask broadcastable to them, bool, with one valid at least."""
    return values.masked_fill(~mask, float("-inf")).amax(dim=dim)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the valid values along the last axis: values (...), mask as for `masked_max`."""
    return values.masked_fill(~mask, 0.0).sum(dim=-1) / mask.sum(dim=-1)
