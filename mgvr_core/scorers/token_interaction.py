"""Scorer `token_interaction`: every word finds its frame and every frame its word, all with the same weight."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mgvr_core.scorers.attention import by_blocks, masked_max, masked_mean, word_similarity, words_of
from mgvr_core.scorers.scorer import PairScorer, Read, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures


class TokenInteraction(PairScorer):
    """1/2 [mean_i max_j <w^_i, g^_j> + mean_j max_i <w^_i, g^_j>] over the valid words i and temporal frames j.

    DRL's token interaction without learned weights (its WTI is `drl`). Words are all tokens from the start marker to
    the end marker. Videos are taken a block at a time, so that a call stays under 1 GB beyond its arguments as long as
    T * L * F is below 2^25: 87,000 texts of 32 tokens at 12 frames.
    """

    title: ClassVar[str] = "Token interaction"
    source: ClassVar[str] = "Wang et al., DRL (TI), arXiv 2203.07111, 2022"
    formula: ClassVar[str] = "(mean_i max_j <w_i, g_j> + mean_j max_i <w_i, g_j>) / 2"
    reads: ClassVar[frozenset[Read]] = frozenset({"words", "temporal"})

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """L F D: the similarities."""
        return sizes.words * sizes.frames * sizes.dim

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""
        words, there = words_of(texts)

        def of(block: VideoFeatures) -> Tensor:
            similarity = word_similarity(words, block.temporal)  # (T, n, L, F)
            of_words = masked_max(similarity, block.mask[:, None, :], dim=-1)  # (T, n, L)
            of_frames = masked_max(similarity, there[:, None, :, None], dim=-2)  # (T, n, F)
            return 0.5 * (masked_mean(of_words, there[:, None, :]) + masked_mean(of_frames, block.mask))

        return by_blocks(of, videos, there.numel() * videos.mask.shape[1])


SCORER = TokenInteraction
