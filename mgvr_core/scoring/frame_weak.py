"""Score `frame_weak`: the text's attention over plain frames, mixed by U."""

from __future__ import annotations

from torch import Tensor

from mgvr_core.scoring.weights import WEAK_TEMPERATURE, frame_similarity, masked_softmax


def frame_weak(text: Tensor, frames: Tensor, mask: Tensor, mixing: Tensor | None) -> Tensor:
    """sum_j a_j <t^, f^_j> with a = softmax_j(<t^, f^_j> / 0.01) U (docs/method.md, section 2).

    text (T, D), frames (V, F, D), mask (V, F) bool, mixing U (F, F) or None for the identity -> (T, V).
    U is applied from the right, to the row of weights, and may hand weight to padded frames: that weight is dropped,
    because padded frames take part in nothing.
    """
    similarity = frame_similarity(text, frames)  # (T, V, F)
    attention = masked_softmax(similarity, mask, WEAK_TEMPERATURE)
    if mixing is not None:
        attention = attention @ mixing
    # A padded frame counts as similarity 0, which drops whatever weight it has.
    return (attention * similarity.masked_fill(~mask, 0.0)).sum(dim=-1)


def multiply_adds(frames: int, dim: int) -> int:
    """Multiply-adds a pair: similarities, U, weighted sum."""
    return frames * dim + frames * frames + frames
