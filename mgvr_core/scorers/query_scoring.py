"""Scorer `query_scoring`: plain frames, averaged by their similarity to the text."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mgvr_core.scorers.attention import by_blocks
from mgvr_core.scorers.scorer import PairScorer, Read, Sizes, Texts
from mgvr_core.scoring import tib_frame
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.tib import gram
from mgvr_core.scoring.weights import frame_similarity


class QueryScoring(PairScorer):
    """<t^, normalise(sum_j c_j f^_j)>, c = softmax_j(<t^, f^_j> / 0.1): TIB frame with plain frames as its values.

    The publication's temperature of CLIP without training; the Gram matrix of the frames stands in for the weighted
    sum (mgvr_core/scoring/tib.py).
    """

    title: ClassVar[str] = "Query scoring"
    source: ClassVar[str] = "Bain et al., A CLIP-Hitchhiker's Guide to Long Video Retrieval, arXiv 2205.08508, 2022"
    formula: ClassVar[str] = "<t, normalise(sum_j softmax_j(<t, f_j> / 0.1) f_j)>"
    reads: ClassVar[frozenset[Read]] = frozenset({"frames"})

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """2 F D + D: similarities, weighted sum of the frames, one dot product."""
        return sizes.frames * sizes.dim + tib_frame.multiply_adds(sizes.frames, sizes.dim)

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""

        def of(block: VideoFeatures) -> Tensor:
            similarity = frame_similarity(texts.vector, block.frames)  # (T, n, F)
            return tib_frame.tib_frame_of(similarity, similarity, block.mask, gram(block.frames))

        F = videos.mask.shape[1]
        return by_blocks(of, videos, max(len(texts), F) * F)


SCORER = QueryScoring
