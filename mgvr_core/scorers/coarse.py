"""Scorer `coarse`: EERCF's stage 1 as a scorer, one dot product a pair."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mgvr_core.scorers.scorer import PairScorer, Read, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.video import multiply_adds, video_score


class Coarse(PairScorer):
    """t^ W v^, with v^ the normalised mean of the temporal frames and W the model's (docs/method.md, section 2).

    With W the identity this is CLIP4Clip's seqTransf (Luo et al., Neurocomputing 2022) on the model's own temporal
    encoder.
    """

    title: ClassVar[str] = "EERCF coarse"
    source: ClassVar[str] = "Tian et al., EERCF, AAAI 2024"
    formula: ClassVar[str] = "<t W, v>"
    reads: ClassVar[frozenset[Read]] = frozenset({"video"})

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """D: the dot product; t W is computed once a text."""
        return multiply_adds(sizes.dim)

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""
        return video_score(texts.vector, videos.video, self.setting.projection.to(texts.vector))


SCORER = Coarse
