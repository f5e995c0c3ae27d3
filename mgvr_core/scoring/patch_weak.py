"""Score `patch_weak`: the text's attention over all patches of a video, by similarities alone."""

from __future__ import annotations

import torch
from torch import Tensor

from mgvr_core.scoring.weights import WEAK_TEMPERATURE, masked_softmax, patch_mask, patch_similarity


def patch_weak(text: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
    """sum_jk b_jk <t^, p^_jk>, b = softmax over all F*P patches jointly of <t^, p^> / 0.01 (docs/method.md, section 2).

    text (T, D), patches (V, F, P, D), mask (V, F) bool -> (T, V).
    """
    valid = patch_mask(mask, patches.shape[2])  # (V, F*P)
    similarity = patch_similarity(text, patches)  # (T, V, F*P)
    return patch_weak_of(similarity, patch_attention(similarity, valid))


def patch_attention(similarity: Tensor, valid: Tensor | None, counts: Tensor | None = None) -> Tensor:
    """b, the weights of a video's patches for a text, which tib_patch shares: similarities (..., N) -> (..., N).

    valid and counts broadcastable to them: which patches there are (None: all), and how many each stands for.
    """
    return masked_softmax(similarity, valid, WEAK_TEMPERATURE, counts)


def patch_weak_of(similarity: Tensor, attention: Tensor) -> Tensor:
    """sum_k b_k x_k of similarities and their weights, both (..., N) -> (...). What is not valid has no weight."""
    score: Tensor = torch.linalg.vecdot(attention, similarity)
    return score


def multiply_adds(frames: int, patches: int, dim: int) -> int:
    """Multiply-adds a pair: similarities and weighted sum."""
    return frames * patches * dim + frames * patches
