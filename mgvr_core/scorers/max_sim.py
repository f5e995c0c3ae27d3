"""Scorer `max_sim`: every word finds its frame, among the plain ones and among the temporal ones."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mgvr_core.scorers.attention import by_blocks, masked_max, masked_mean, word_similarity, words_of
from mgvr_core.scorers.scorer import PairScorer, Read, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures


class MaxSim(PairScorer):
    """mean_i max_j <w^_i, f^_j> + mean_i max_j <w^_i, g^_j> over the valid words i and frames j: mean MaxSim (MMS).

    Words are all tokens from the start marker to the end marker. Left out is what the publication trains for this
    score: expansion tokens on both sides, and towers tuned with a sigmoid loss a level. Videos are taken a block at a
    time, so that a call stays under 1 GB beyond its arguments as long as T * L * F is below 2^25: 87,000 texts of 32
    tokens at 12 frames.
    """

    title: ClassVar[str] = "MaxSim (Video-ColBERT-style)"
    source: ClassVar[str] = "Reddy et al., Video-ColBERT, CVPR 2025"
    formula: ClassVar[str] = "mean_i max_j <w_i, f_j> + mean_i max_j <w_i, g_j>"
    reads: ClassVar[frozenset[Read]] = frozenset({"words", "frames", "temporal"})

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """2 L F D: the similarities with both kinds of frames."""
        return 2 * sizes.words * sizes.frames * sizes.dim

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""
        words, there = words_of(texts)

        def level(frames: Tensor, mask: Tensor) -> Tensor:
            best = masked_max(word_similarity(words, frames), mask[:, None, :], dim=-1)  # (T, n, L, F) -> (T, n, L)
            return masked_mean(best, there[:, None, :])

        def of(block: VideoFeatures) -> Tensor:
            return level(block.frames, block.mask) + level(block.temporal, block.mask)

        return by_blocks(of, videos, there.numel() * videos.mask.shape[1])


SCORER = MaxSim
