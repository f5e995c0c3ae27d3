"""Attention weights that a text puts on a video's frames or patches, with padding left out."""

from __future__ import annotations

import torch
from torch import Tensor

WEAK_TEMPERATURE = 0.01
"""Temperature of the weak scores' softmax, and of both patch softmaxes (released model)."""
TIB_FRAME_TEMPERATURE = 0.1
"""Temperature of the TIB frame gate (released model)."""


def masked_softmax(similarity: Tensor, mask: Tensor | None, temperature: float, counts: Tensor | None = None) -> Tensor:
    """softmax(similarity / temperature) over the last axis, zero wherever `mask` is False.

    similarity (..., N) float, mask broadcastable to it, bool, or None where all is valid. A row without one valid entry
    gives zeros, not NaN. counts, as broadcastable: how many tokens an entry stands for; its weight is that of as many
    equal ones, proportional to count * exp(similarity / temperature). A valid entry's count is not 0.
    """
    logits = similarity / temperature
    if counts is not None:
        logits = logits + counts.log()
    if mask is None:
        return torch.softmax(logits, dim=-1)
    logits = logits.masked_fill(~mask, float("-inf"))
    # A fully masked row would be softmax of nothing: subtracting its -inf maximum gives NaN.
    logits = logits.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)
    return torch.softmax(logits, dim=-1).masked_fill(~mask, 0.0)


def frame_similarity(text: Tensor, frames: Tensor) -> Tensor:
    """<t^, f^_j> of every pair: text (T, D), frames (V, F, D) -> (T, V, F)."""
    V, F, D = frames.shape
    return (text @ frames.reshape(V * F, D).T).reshape(-1, V, F)


def patch_similarity(text: Tensor, patches: Tensor) -> Tensor:
    """<t^, p^_jk> of every pair, a video's patches in one row: text (T, D), patches (V, F, P, D) -> (T, V, F*P)."""
    V, F, P, D = patches.shape
    return (text @ patches.reshape(V * F * P, D).T).reshape(-1, V, F * P)


def patch_mask(mask: Tensor, patches_per_frame: int) -> Tensor:
    """The patches of valid frames: mask (V, F) bool -> (V, F*P) bool, in the order of `patch_similarity`."""
    return mask.repeat_interleave(patches_per_frame, dim=-1)
