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
    return frame_weak_of(frame_similarity(text, frames), mask, mixing)


def frame_weak_of(similarity: Tensor, mask: Tensor | None, mixing: Tensor | None) -> Tensor:
    """The score from similarities (..., F), mask broadcastable to them or None, mixing (F, F) or None -> (...)."""
    attention = masked_softmax(similarity, mask, WEAK_TEMPERATURE)
    if mixing is not None:
        attention = attention @ mixing
    if mask is not None:
        # A padded frame counts as similarity 0, which drops whatever weight it has.
        similarity = similarity.masked_fill(~mask, 0.0)
    return (attention * similarity).sum(dim=-1)


def multiply_adds(frames: int, dim: int) -> int:
    """Multiply-adds a pair: similarities, U, weighted sum."""
    return frames * dim + frames * frames + frames
