"""Scorer `ts2_net`: TS2-Net's softmax over frames."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.scorers.attention import by_blocks
from mgvr_core.scorers.scorer import PairScorer, Read, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.weights import frame_similarity, masked_softmax


class TS2Net(PairScorer):
    """sum_j softmax_j(4 x_j / ||x||) x_j, x_j = <t^, g^_j>, over the valid frames.

    ||x|| is the length of a pair's similarities, so the weights don't depend on how large those are, and no two weights
    of a pair differ by more than a factor of e^(4 sqrt 2). Only the score is TS2-Net's: its token shift and its
    selection of tokens come before the features that are stored, and the temporal frames are the model's own.
    """

    title: ClassVar[str] = "TS2-Net's softmax"
    source: ClassVar[str] = "Liu et al., TS2-Net, ECCV 2022"
    formula: ClassVar[str] = "sum_j softmax_j(4 x_j / |x|) x_j, x_j = <t, g_j>"
    reads: ClassVar[frozenset[Read]] = frozenset({"temporal"})

    sharpness: ClassVar[float] = 4.0
    """What the similarities of unit length are multiplied by in the softmax (released model)."""

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """F D: the similarities. Their length and their weighted sum, 2 F more, are left out.

        So it is counted where it is compared with others: 6.1 K at F = 12 and D = 512.
        """
        return sizes.frames * sizes.dim

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""

        def of(block: VideoFeatures) -> Tensor:
            similarity = frame_similarity(texts.vector, block.temporal).masked_fill(~block.mask, 0.0)  # (T, n, F)
            weights = masked_softmax(normalize(similarity, dim=-1), block.mask, 1.0 / self.sharpness)
            return (weights * similarity).sum(dim=-1)

        return by_blocks(of, videos, len(texts) * videos.mask.shape[1])


SCORER = TS2Net
