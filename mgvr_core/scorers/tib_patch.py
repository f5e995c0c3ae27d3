"""Scorer `tib_patch`: EERCF's text-gated interaction over patches, by itself."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mgvr_core.scorers.attention import by_blocks, patches_of
from mgvr_core.scorers.scorer import PairScorer, Read, Sizes, Texts
from mgvr_core.scoring import tib_patch
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.patch_weak import patch_attention
from mgvr_core.scoring.weights import patch_mask, patch_similarity


class TIBPatch(PairScorer):
    """<t^, normalise(sum_jk b_jk p^_jk)>, b = softmax_jk(<t^, p^_jk> / 0.01) over all patches of the valid frames.

    docs/method.md, section 2, in evaluation. The gated vector is formed: a Gram matrix of hundreds of patches is larger
    than they are. Videos are taken a block at a time, so that a call stays under 1 GB beyond its arguments as long as
    T * max(F P, D) is below 2^25: 57,000 texts at ViT-B/32.
    """

    title: ClassVar[str] = "EERCF TIB patch"
    source: ClassVar[str] = "Tian et al., EERCF, AAAI 2024"
    formula: ClassVar[str] = "<t, normalise(sum_jk softmax_jk(<t, p_jk> / 0.01) p_jk)>"
    reads: ClassVar[frozenset[Read]] = frozenset({"patches"})

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """2 F P D + D: similarities, weighted sum of the patches, one dot product."""
        return sizes.frames * sizes.patches * sizes.dim + tib_patch.multiply_adds(
            sizes.frames, sizes.patches, sizes.dim
        )

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""
        _, F, P, D = patches_of(videos).shape

        def of(block: VideoFeatures) -> Tensor:
            patches = patches_of(block)
            similarity = patch_similarity(texts.vector, patches)  # (T, n, F*P)
            attention = patch_attention(similarity, patch_mask(block.mask, P))
            return tib_patch.tib_patch_of(similarity, attention, patches.reshape(len(block), F * P, D))

        return by_blocks(of, videos, len(texts) * max(F * P, D))


SCORER = TIBPatch
