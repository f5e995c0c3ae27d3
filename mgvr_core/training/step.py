"""One step on a batch: the same loss and gradient for any number of workers, and for any size of chunk.

The loss couples all pairs of a batch: negatives, and the Pearson term's means and deviations. So a batch that is larger
than memory can't be cut into smaller ones whose gradients are added up. It can be done in two passes (Gao et al. 2021,
*Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup*, arXiv 2101.06983): the features of all chunks
without gradients; the loss of the whole batch, and its gradient with respect to those features; then each chunk once
more, with gradients, which takes its features' gradient back into the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.config import Section
from mgvr_core.model.eercf import EERCF
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.training.gather import average_gradients, gather
from mgvr_core.training.losses import LossConfig, Losses, eercf_loss


class MemoryConfig(Section):
    """How a batch is fitted into memory. Nothing here changes the step, beyond rounding."""

    chunk: int | None = Field(
        None,
        gt=0,
        description="pairs of a worker that go through the towers at once; none: all. With fewer every pair goes "
        "through twice, first for the features and then for the gradients, and the batch stays whole",
    )
    patch_videos: int | None = Field(
        None,
        gt=0,
        description="videos whose patch scores against all texts are computed at once, and again in the backward pass; "
        "none: all, which holds batch x batch x patches numbers several times",
    )
    checkpointing: bool = Field(
        False, description="keep only the blocks' inputs of the towers and compute the rest again in the backward pass"
    )


@dataclass(frozen=True)
class Rows:
    """The features of some pairs of a worker, in fp32."""

    text: Tensor
    """(b, D), unnormalised."""
    videos: VideoFeatures
    """Of b videos."""
    valid: Tensor | None = None
    """(b,) bool: False for a pair whose video could not be read; its row is in no loss. None: all are good."""


Encode = Callable[[slice], Rows]
"""The features of some of a worker's rows of the batch, with gradients where they are enabled."""


def backward(
    model: EERCF, encode: Encode, rows: int, mixing: Tensor | None, loss: LossConfig, memory: MemoryConfig
) -> tuple[Losses, int]:
    """Add the gradient of the whole batch's loss to the weights; returns the losses and the pairs that are in them.

    `rows` is this worker's share of the batch, the same on all workers. Gradients come out averaged over the workers,
    which makes them those of one worker with the whole batch. A batch with fewer than two good pairs has no loss: it
    gives zeros, and no gradient.
    """
    chunk = memory.chunk or rows
    if chunk >= rows:
        losses, pairs = _loss(model, encode(slice(0, rows)), mixing, loss, memory)
        if pairs >= 2:
            losses.total.backward()  # type: ignore[no-untyped-call]
    else:
        chunks = [slice(begin, min(begin + chunk, rows)) for begin in range(0, rows, chunk)]
        with torch.no_grad():
            cached = _concatenate([encode(part) for part in chunks])
        leaves = [tensor.requires_grad_() for tensor in _differentiable(cached)]
        losses, pairs = _loss(model, cached, mixing, loss, memory)
        if pairs >= 2:
            losses.total.backward()  # type: ignore[no-untyped-call]
            for part in chunks:
                _take_back(_differentiable(encode(part)), [leaf.grad for leaf in leaves], part)
    average_gradients(model)
    return losses, pairs


def _loss(
    model: EERCF, mine: Rows, mixing: Tensor | None, loss: LossConfig, memory: MemoryConfig
) -> tuple[Losses, int]:
    """The loss of the batch of all workers, from this worker's rows of it."""
    text, videos = normalize(gather(mine.text), dim=-1), _gathered(mine.videos)
    if mine.valid is not None:
        valid = gather(mine.valid)
        text, videos = text[valid], _select(videos, valid)
    pairs = len(text)
    if pairs < 2:  # a deviation of one row is NaN, and one pair has no negatives
        zero = text.new_zeros(())
        return Losses(zero, zero, zero, zero), pairs
    scale = model.logit_scale().float()
    return eercf_loss(text, videos, model.video_projection, mixing, scale, loss, memory.patch_videos), pairs


def _take_back(features: list[Tensor], gradients: list[Tensor | None], part: slice) -> None:
    """Carry the gradient of some rows' features back into the weights."""
    reached = [
        (feature, gradient[part])
        for feature, gradient in zip(features, gradients, strict=True)
        # A frozen tower's features have no history, and a feature that no term reads has no gradient.
        if gradient is not None and feature.requires_grad
    ]
    if reached:
        tensors, seeds = zip(*reached, strict=True)
        torch.autograd.backward(tensors, seeds)


def _differentiable(rows: Rows) -> list[Tensor]:
    videos = rows.videos
    patches = [] if videos.patches is None else [videos.patches]
    return [rows.text, videos.video, videos.frames, videos.temporal, *patches]


def _concatenate(parts: list[Rows]) -> Rows:
    videos = [part.videos for part in parts]
    patches = [part.patches for part in videos if part.patches is not None]
    valid = [part.valid for part in parts if part.valid is not None]
    return Rows(
        text=torch.cat([part.text for part in parts]),
        videos=VideoFeatures(
            video=torch.cat([part.video for part in videos]),
            frames=torch.cat([part.frames for part in videos]),
            temporal=torch.cat([part.temporal for part in videos]),
            patches=torch.cat(patches) if patches else None,
            mask=torch.cat([part.mask for part in videos]),
        ),
        valid=torch.cat(valid) if valid else None,
    )


def _gathered(videos: VideoFeatures) -> VideoFeatures:
    return VideoFeatures(
        video=gather(videos.video),
        frames=gather(videos.frames),
        temporal=gather(videos.temporal),
        patches=None if videos.patches is None else gather(videos.patches),
        mask=gather(videos.mask),
    )


def _select(videos: VideoFeatures, rows: Tensor) -> VideoFeatures:
    return VideoFeatures(
        video=videos.video[rows],
        frames=videos.frames[rows],
        temporal=videos.temporal[rows],
        patches=None if videos.patches is None else videos.patches[rows],
        mask=videos.mask[rows],
    )
