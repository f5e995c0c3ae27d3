"""Scorer `tib_frame`: EERCF's text-gated interaction over frames, by itself."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mgvr_core.scorers.attention import by_blocks
from mgvr_core.scorers.scorer import PairScorer, Read, Sizes, Texts
from mgvr_core.scoring import tib_frame
from mgvr_core.scoring.features import VideoFeatures


class TIBFrame(PairScorer):
    """<t^, normalise(sum_j c_j g^_j)>, c = softmax_j(<t^, f^_j> / 0.1) over the valid frames.

    docs/method.md, section 2, in evaluation: plain frames give the weights, temporal ones are weighted.
    """

    title: ClassVar[str] = "EERCF TIB frame"
    source: ClassVar[str] = "Tian et al., EERCF, AAAI 2024"
    formula: ClassVar[str] = "<t, normalise(sum_j softmax_j(<t, f_j> / 0.1) g_j)>"
    reads: ClassVar[frozenset[Read]] = frozenset({"frames", "temporal"})

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """2 F D + D: similarities with the plain frames, weighted sum of the temporal ones, one dot product."""
        return sizes.frames * sizes.dim + tib_frame.multiply_adds(sizes.frames, sizes.dim)

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""

        def of(block: VideoFeatures) -> Tensor:
            return tib_frame.tib_frame(texts.vector, block.frames, block.temporal, block.mask)

        F = videos.mask.shape[1]
        return by_blocks(of, videos, max(len(texts), F) * F)


SCORER = TIBFrame
