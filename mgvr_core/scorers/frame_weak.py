"""Scorer `frame_weak`: EERCF's weak frame score, by itself."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mgvr_core.scorers.attention import by_blocks
from mgvr_core.scorers.scorer import PairScorer, Read, Sizes, Texts
from mgvr_core.scoring import frame_weak
from mgvr_core.scoring.features import VideoFeatures


class FrameWeak(PairScorer):
    """sum_j a_j <t^, f^_j>, a = softmax_j(<t^, f^_j> / 0.01) U over the valid frames (docs/method.md, section 2).

    U is the setting's: the model's, or the identity. The same score is X-CLIP's attention over similarities between a
    sentence and frames.
    """

    title: ClassVar[str] = "EERCF weak frame"
    source: ClassVar[str] = "Tian et al., EERCF, AAAI 2024"
    formula: ClassVar[str] = "sum_j a_j <t, f_j>, a = softmax_j(<t, f_j> / 0.01) U"
    reads: ClassVar[frozenset[Read]] = frozenset({"frames"})

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """F D + F^2 + F: similarities, U, weighted sum."""
        return frame_weak.multiply_adds(sizes.frames, sizes.dim)

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""
        mixing = None if self.setting.mixing is None else self.setting.mixing.to(texts.vector)

        def of(block: VideoFeatures) -> Tensor:
            return frame_weak.frame_weak(texts.vector, block.frames, block.mask, mixing)

        return by_blocks(of, videos, len(texts) * videos.mask.shape[1])


SCORER = FrameWeak
