"""Scorer `drl`: weighted token interaction. Every word finds its frame, every frame its word; some count for more."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from mgvr_core.scorers.attention import by_blocks, masked_max, word_similarity, words_of
from mgvr_core.scorers.blocks import drawn_from
from mgvr_core.scorers.scorer import PairScorer, Read, Setting, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.weights import masked_softmax


class Drl(PairScorer):
    """1/2 [sum_i a_i max_j <w^_i, g^_j> + sum_j b_j max_i <w^_i, g^_j>] over the valid words i and temporal frames j.

    a = softmax_i A(w^_i), b = softmax_j B(g^_j), with A and B perceptrons of one hidden layer, 2 D wide, with ReLU, as
    in the released model. That reads vectors of CLIP's own length; here the unit vectors are given to A and B at length
    sqrt(D), so that a channel has a variance of 1. The last layers start as zero: before training all weights are
    equal and the score is `token_interaction`. Words are all tokens from the start marker to the end marker. Left out
    is the publication's other half, the decorrelation of channels in its loss.
    """

    title: ClassVar[str] = "DRL (WTI)"
    source: ClassVar[str] = (
        "Wang et al., Disentangled Representation Learning for Text-Video Retrieval, arXiv 2203.07111, 2022"
    )
    formula: ClassVar[str] = (
        "(sum_i a_i max_j <w_i, g_j> + sum_j b_j max_i <w_i, g_j>) / 2, a = softmax_i A(w_i), b = softmax_j B(g_j)"
    )
    reads: ClassVar[frozenset[Read]] = frozenset({"words", "temporal"})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        D = setting.sizes.dim
        with drawn_from(setting.seed):
            self.of_word, self.of_frame = _perceptron(D), _perceptron(D)
            """A and B."""

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """L F D: the similarities. The weights are computed once for a text, and once for a video."""
        return sizes.words * sizes.frames * sizes.dim

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""
        words, there = words_of(texts)
        word_weight = _weights(self.of_word, words, there)  # (T, L)

        def of(block: VideoFeatures) -> Tensor:
            frame_weight = _weights(self.of_frame, block.temporal, block.mask)  # (n, F)
            similarity = word_similarity(words, block.temporal)  # (T, n, L, F)
            of_words = masked_max(similarity, block.mask[:, None, :], dim=-1)  # (T, n, L)
            of_frames = masked_max(similarity, there[:, None, :, None], dim=-2)  # (T, n, F)
            return 0.5 * ((word_weight.unsqueeze(1) * of_words).sum(dim=-1) + (frame_weight * of_frames).sum(dim=-1))

        return by_blocks(of, videos, there.numel() * videos.mask.shape[1])


def _perceptron(dim: int) -> nn.Sequential:
    """D -> 2 D -> 1, which starts as zero. A last bias would add the same to all logits of a softmax."""
    last = nn.Linear(2 * dim, 1, bias=False)
    nn.init.zeros_(last.weight)
    return nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), last)


def _weights(perceptron: nn.Sequential, tokens: Tensor, mask: Tensor) -> Tensor:
    """Unit vectors (n, N, D), mask (n, N) -> (n, N)."""
    return masked_softmax(perceptron(tokens * tokens.shape[-1] ** 0.5).squeeze(-1), mask, temperature=1.0)


SCORER = Drl
