"""EERCF's scores together: which ones, how they add up, and what they cost."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from mgvr_core.config import Section
from mgvr_core.scoring import frame_weak, patch_weak, tib_frame, tib_patch, video
from mgvr_core.scoring.features import VideoFeatures


class FusionWeights(Section):
    """Weights of the rerank, by default the released constants (docs/method.md, section 4). 0 leaves a score out."""

    video: float = Field(0.5, ge=0, description="weight of the coarse score in the rerank")
    frame_weak: float = Field(0.8, ge=0, description="weight of the weak frame score")
    tib_frame: float = Field(0.2, ge=0, description="weight of the TIB frame score")
    patch_weak: float = Field(0.2, ge=0, description="weight of the weak patch score (needs patch features)")
    tib_patch: float = Field(0.0, ge=0, description="weight of the TIB patch score (needs patch features)")

    @property
    def needs_patches(self) -> bool:
        """Whether a score with a weight reads patch features."""
        return self.patch_weak > 0 or self.tib_patch > 0

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the scores that have a weight, in the order of this class."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) > 0)


def score_each(
    text: Tensor, videos: VideoFeatures, projection: Tensor, mixing: Tensor | None, weights: FusionWeights
) -> dict[str, Tensor]:
    """Every score that has a weight, for all pairs: text (T, D) unit length, V videos -> name -> (T, V) cosines.

    Raises ValueError where a patch score has a weight and the videos have no patches.
    """
    if weights.needs_patches and videos.patches is None:
        raise ValueError("a patch score has a weight, but the videos have no patch features")
    compute = {
        "video": lambda: video.video_score(text, videos.video, projection),
        "frame_weak": lambda: frame_weak.frame_weak(text, videos.frames, videos.mask, mixing),
        "tib_frame": lambda: tib_frame.tib_frame(text, videos.frames, videos.temporal, videos.mask),
        "patch_weak": lambda: patch_weak.patch_weak(text, videos.patches, videos.mask),  # type: ignore[arg-type]
        "tib_patch": lambda: tib_patch.tib_patch(text, videos.patches, videos.mask),  # type: ignore[arg-type]
    }
    return {name: compute[name]() for name in weights.active}


def fuse(scores: dict[str, Tensor], weights: FusionWeights) -> Tensor:
    """The weighted sum of `score_each`'s scores, added in their order so that equal inputs give equal bits.

    Raises ValueError where a weighted score is missing, or another is there.
    """
    if set(scores) != set(weights.active):
        raise ValueError(f"scores {sorted(scores)} are not those that have a weight: {sorted(weights.active)}")
    first, *rest = scores
    total: Tensor = getattr(weights, first) * scores[first]
    for name in rest:
        total = total + getattr(weights, name) * scores[name]
    return total


def multiply_adds(weights: FusionWeights, frames: int, patches: int, dim: int) -> int:
    """Multiply-adds of the fused score of one pair: F frames, P patches a frame, D dimensions.

    For the released weights at F = 12, P = 49, D = 512, k = 50 of 1,000 videos this gives the 16.3 K a pair of
    docs/method.md, section 4: (50 * fused + 1000 * video) / 1000.
    """
    cost = {
        "video": video.multiply_adds(dim),
        "frame_weak": frame_weak.multiply_adds(frames, dim),
        "tib_frame": tib_frame.multiply_adds(frames, dim),
        "patch_weak": patch_weak.multiply_adds(frames, patches, dim),
        "tib_patch": tib_patch.multiply_adds(frames, patches, dim),
    }
    total = sum(cost[name] for name in weights.active)
    # The TIB gates reuse the weak scores' similarities; alone, they have to compute them.
    if weights.tib_frame > 0 and weights.frame_weak == 0:
        total += frames * dim
    if weights.tib_patch > 0 and weights.patch_weak == 0:
        total += frames * patches * dim
    return total
