"""Scorer `mean_pool`: a video is the mean of its plain frames."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mgvr_core.scorers.scorer import PairScorer, Read, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.tib import gated_vector


class MeanPool(PairScorer):
    """<t^, normalise(mean_j f^_j)> over the valid frames: CLIP4Clip's meanP, and CLIP's zero-shot baseline.

    The mean is of unit vectors, as in the released CLIP4Clip. One vector a video, whatever the text.
    """

    title: ClassVar[str] = "Mean pool"
    source: ClassVar[str] = "Luo et al., CLIP4Clip (meanP), Neurocomputing 2022"
    formula: ClassVar[str] = "<t, normalise(mean_j f_j)>"
    reads: ClassVar[frozenset[Read]] = frozenset({"frames"})

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """D: the dot product; the mean is computed once a video."""
        return sizes.dim

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""
        pooled = gated_vector(videos.mask.to(videos.frames.dtype), videos.frames)  # (V, D), weight 1 a valid frame
        return texts.vector @ pooled.T


SCORER = MeanPool
