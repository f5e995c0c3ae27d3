"""Score `tib_frame`: temporal frames weighted by a text's similarity to the plain frames."""

from __future__ import annotations

import torch
from torch import Tensor

from mgvr_core.scoring.tib import gated_score, gated_vector, gram
from mgvr_core.scoring.weights import TIB_FRAME_TEMPERATURE, frame_similarity, masked_softmax


def tib_frame(text: Tensor, frames: Tensor, temporal: Tensor, mask: Tensor) -> Tensor:
    """<t^, normalise(sum_j c_j g^_j)>, c = softmax_j(<t^, f^_j> / 0.1), for every pair.

    docs/method.md, section 2, evaluation. text (T, D), frames f^ and temporal g^ (V, F, D), mask (V, F) bool -> (T, V).
    """
    return tib_frame_of(frame_similarity(text, frames), frame_similarity(text, temporal), mask, gram(temporal))


def tib_frame_of(frames: Tensor, temporal: Tensor, mask: Tensor | None, gram_matrix: Tensor) -> Tensor:
    """From similarities with both kinds of frames, (T, V, F) each, mask (V, F) or None, G (V, F, F) -> (T, V)."""
    return gated_score(masked_softmax(frames, mask, TIB_FRAME_TEMPERATURE), temporal, gram_matrix)


def tib_frame_vector(own_text: Tensor, frames: Tensor, temporal: Tensor, mask: Tensor) -> Tensor:
    """The gated vector of every video from its own caption (docs/method.md, section 2, training).

    own_text (V, D), frames and temporal (V, F, D), mask (V, F) -> (V, D). The gate carries no gradient.
    """
    with torch.no_grad():
        similarity = torch.einsum("vd,vfd->vf", own_text, frames)
        attention = masked_softmax(similarity, mask, TIB_FRAME_TEMPERATURE)
    return gated_vector(attention, temporal)


def multiply_adds(frames: int, dim: int) -> int:
    """Multiply-adds a pair beyond the plain frames' similarities, which `frame_weak` has computed already.

    Weighted sum of the temporal frames and one dot product, as docs/method.md, section 4 counts it (F = 12, D = 512).
    """
    return frames * dim + dim
