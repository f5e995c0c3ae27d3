"""The training loss of docs/method.md, section 3, made of the scores.

weak   = 0.5 video + 0.5 frame_weak + 0.05 patch_weak
strong = 1.0 tib_frame + 0.0 tib_patch
inter  = 0.8 symCE(s * weak) + 0.2 symCE(s * strong)
loss   = inter + 0.001 [PC(t, v) + PC(t, tib_frame) + 0 PC(t, tib_patch)]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from mgvr_core.config import Section
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.frame_weak import frame_weak
from mgvr_core.scoring.patch_weak import patch_weak
from mgvr_core.scoring.tib_frame import tib_frame_vector
from mgvr_core.scoring.tib_patch import tib_patch_vector
from mgvr_core.scoring.video import video_score

PEARSON_FACTOR = 0.14
"""Weight inside PC (released model)."""


class LossConfig(Section):
    """Weights of the loss terms; a weight of 0 switches a term off, and what only it needs is not computed."""

    video: float = Field(0.5, ge=0, description="video score in the weak term")
    frame_weak: float = Field(0.5, ge=0, description="weak frame score in the weak term")
    patch_weak: float = Field(0.05, ge=0, description="weak patch score in the weak term")
    tib_frame: float = Field(1.0, ge=0, description="TIB frame score in the strong term")
    tib_patch: float = Field(0.0, ge=0, description="TIB patch score in the strong term")
    weak: float = Field(0.8, ge=0, description="the weak term's cross-entropy")
    strong: float = Field(0.2, ge=0, description="the strong term's cross-entropy")
    pearson: float = Field(0.001, ge=0, description="all Pearson constraints together")
    pearson_video: float = Field(1.0, ge=0, description="Pearson constraint on the video vector")
    pearson_tib_frame: float = Field(1.0, ge=0, description="Pearson constraint on the TIB frame vector")
    pearson_tib_patch: float = Field(0.0, ge=0, description="Pearson constraint on the TIB patch vector")

    @property
    def trains_heads(self) -> bool:
        """Whether any term reaches the temporal encoder, W or U."""
        pearson = self.pearson * (self.pearson_video + self.pearson_tib_frame)
        return self.weak * (self.video + self.frame_weak) + self.strong * self.tib_frame + pearson > 0

    @property
    def needs_patches(self) -> bool:
        """Whether any term reads patch features."""
        strong = self.strong * self.tib_patch > 0
        return self.weak * self.patch_weak > 0 or strong or self.pearson * self.pearson_tib_patch > 0


@dataclass(frozen=True)
class Losses:
    """The loss and what it is made of; scalar tensors, `total` with its gradient."""

    total: Tensor
    weak: Tensor
    strong: Tensor
    pearson: Tensor


def eercf_loss(
    text: Tensor,
    videos: VideoFeatures,
    projection: Tensor,
    mixing: Tensor | None,
    scale: Tensor,
    config: LossConfig,
    patch_videos: int | None = None,
) -> Losses:
    """The loss of a batch in which text i belongs to video i.

    text (B, D) unit length, `videos` of B videos, projection W (D, D), mixing U (F, F) or None, scale s a scalar;
    `patch_videos`: whose patch scores are held at once (None: all).
    All workers' features must have been gathered: negatives and Pearson statistics are those of the whole batch.
    """
    zero = text.new_zeros(())
    weak, strong, pearson = zero, zero, zero
    if config.weak * (config.video + config.frame_weak + config.patch_weak) > 0:
        weak = symmetric_cross_entropy(scale * weak_scores(text, videos, projection, mixing, config, patch_videos))
    frame_vector = patch_vector = None
    if config.strong * config.tib_frame > 0 or config.pearson * config.pearson_tib_frame > 0:
        frame_vector = tib_frame_vector(text, videos.frames, videos.temporal, videos.mask)
    if config.strong * config.tib_patch > 0 or config.pearson * config.pearson_tib_patch > 0:
        patch_vector = tib_patch_vector(text, _patches(videos), videos.mask)
    if config.strong * (config.tib_frame + config.tib_patch) > 0:
        scores = text.new_zeros(len(text), len(text))
        if frame_vector is not None and config.tib_frame > 0:
            scores = scores + config.tib_frame * (text @ frame_vector.T)
        if patch_vector is not None and config.tib_patch > 0:
            scores = scores + config.tib_patch * (text @ patch_vector.T)
        strong = symmetric_cross_entropy(scale * scores)
    if config.pearson > 0:
        constrained = (
            (config.pearson_video, videos.video),
            (config.pearson_tib_frame, frame_vector),
            (config.pearson_tib_patch, patch_vector),
        )
        for weight, vector in constrained:
            if weight > 0 and vector is not None:
                pearson = pearson + weight * pearson_constraint(text, vector)
    total = config.weak * weak + config.strong * strong + config.pearson * pearson
    return Losses(total, weak, strong, pearson)


def weak_scores(
    text: Tensor,
    videos: VideoFeatures,
    projection: Tensor,
    mixing: Tensor | None,
    config: LossConfig,
    patch_videos: int | None = None,
) -> Tensor:
    """The weak term's fused scores of all pairs, (B, B), not multiplied by the logit scale."""
    scores = text.new_zeros(len(text), len(videos.video))
    if config.video > 0:
        scores = scores + config.video * video_score(text, videos.video, projection)
    if config.frame_weak > 0:
        scores = scores + config.frame_weak * frame_weak(text, videos.frames, videos.mask, mixing)
    if config.patch_weak > 0:
        scores = scores + config.patch_weak * patch_scores(text, _patches(videos), videos.mask, patch_videos)
    return scores


def patch_scores(text: Tensor, patches: Tensor, mask: Tensor, videos_at_once: int | None) -> Tensor:
    """`patch_weak` of all pairs, some videos at a time: text (T, D), patches (V, F, P, D), mask (V, F) -> (T, V).

    All at once it keeps several arrays of (T, V, F * P) for the backward pass. In parts it keeps none of them: each
    part is computed again when its gradient is due.
    """
    if videos_at_once is None or videos_at_once >= len(patches):
        return patch_weak(text, patches, mask)
    parts = [
        checkpoint(patch_weak, text, some, valid, use_reentrant=False)
        for some, valid in zip(torch.split(patches, videos_at_once), torch.split(mask, videos_at_once), strict=True)
    ]
    return torch.cat(parts, dim=1)


def symmetric_cross_entropy(logits: Tensor) -> Tensor:
    """Mean of the two directions' cross-entropies over a square (B, B) whose diagonal is right."""
    target = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def pearson_constraint(a: Tensor, b: Tensor) -> Tensor:
    """PC(a, b) = 0.14 sum_d (C_dd - 1)^2, C = Za' Zb / B: a and b (B, D) -> a scalar.

    Z is each channel standardised over the batch with the unbiased standard deviation; the released model divides the
    product by B, not by B - 1. Only the diagonal of C is needed, so C itself is never formed.
    """
    diagonal = (_standardise(a) * _standardise(b)).sum(dim=0) / len(a)  # (B, D) -> (D,)
    return PEARSON_FACTOR * (diagonal - 1).square().sum()


def _standardise(x: Tensor) -> Tensor:
    return (x - x.mean(dim=0)) / x.std(dim=0)


def _patches(videos: VideoFeatures) -> Tensor:
    if videos.patches is None:
        raise ValueError("the loss reads patch features, but the videos were encoded without them")
    return videos.patches
