"""Score `patch_weak`: the text's attention over all patches of a video, by similarities alone."""

from __future__ import annotations

from torch import Tensor

from mgvr_core.scoring.weights import WEAK_TEMPERATURE, masked_softmax, patch_mask, patch_similarity


def patch_weak(text: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
    """sum_jk b_jk <t^, p^_jk>, b = softmax over all F*P patches jointly of <t^, p^> / 0.01 (docs/method.md, section 2).

    text (T, D), patches (V, F, P, D), mask (V, F) bool -> (T, V).
    """
    valid = patch_mask(mask, patches.shape[2])  # (V, F*P)
    similarity = patch_similarity(text, patches)  # (T, V, F*P)
    attention = masked_softmax(similarity, valid, WEAK_TEMPERATURE)
    return (attention * similarity.masked_fill(~valid, 0.0)).sum(dim=-1)


def multiply_adds(frames: int, patches: int, dim: int) -> int:
    """Multiply-adds a pair: similarities and weighted sum."""
    return frames * patches * dim + frames * patches
