"""Scorer `patch_weak`: EERCF's weak patch score, by itself."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mgvr_core.scorers.attention import by_blocks, patches_of
from mgvr_core.scorers.scorer import PairScorer, Read, Sizes, Texts
from mgvr_core.scoring import patch_weak
from mgvr_core.scoring.features import VideoFeatures


class PatchWeak(PairScorer):
    """sum_jk b_jk <t^, p^_jk>, b = softmax_jk(<t^, p^_jk> / 0.01) over all patches of the valid frames jointly.

    docs/method.md, section 2. Videos are taken a block at a time, so that a call stays under 1 GB beyond its arguments
    as long as T * F * P is below 2^25: 57,000 texts at ViT-B/32.
    """

    title: ClassVar[str] = "EERCF weak patch"
    source: ClassVar[str] = "Tian et al., EERCF, AAAI 2024"
    formula: ClassVar[str] = "sum_jk softmax_jk(<t, p_jk> / 0.01) <t, p_jk>"
    reads: ClassVar[frozenset[Read]] = frozenset({"patches"})

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """F P D + F P: similarities and weighted sum."""
        return patch_weak.multiply_adds(sizes.frames, sizes.patches, sizes.dim)

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""
        _, F, P, _ = patches_of(videos).shape

        def of(block: VideoFeatures) -> Tensor:
            return patch_weak.patch_weak(texts.vector, patches_of(block), block.mask)

        return by_blocks(of, videos, len(texts) * F * P)


SCORER = PatchWeak
