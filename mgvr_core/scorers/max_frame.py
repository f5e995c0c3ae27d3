"""Scorer `max_frame`: a video is as good as its best frame."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mgvr_core.scorers.attention import by_blocks, masked_max
from mgvr_core.scorers.scorer import PairScorer, Read, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.weights import frame_similarity


class MaxFrame(PairScorer):
    """max_j <t^, f^_j> over the valid frames: image retrieval on frames, and top_frames with n = 1."""

    title: ClassVar[str] = "Max frame"
    source: ClassVar[str] = "a baseline of the field, without a publication of its own"
    formula: ClassVar[str] = "max_j <t, f_j>"
    reads: ClassVar[frozenset[Read]] = frozenset({"frames"})

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """F D: the similarities."""
        return sizes.frames * sizes.dim

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""

        def of(block: VideoFeatures) -> Tensor:
            return masked_max(frame_similarity(texts.vector, block.frames), block.mask, dim=-1)  # (T, n, F) -> (T, n)

        return by_blocks(of, videos, len(texts) * videos.mask.shape[1])


SCORER = MaxFrame
