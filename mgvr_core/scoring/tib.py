"""What TIB frame and TIB patch share: a video vector gated by a text (text-gated interaction block, no parameters).

The two modes of docs/method.md, section 2. In evaluation every (text, video) pair has its own gated vector, which need
never be formed: with x_n = <t^, y_n> over the values y and their Gram matrix G,

    <t^, normalise(sum_n c_n y_n)> = (sum_n c_n x_n) / sqrt(c' G c).

In training the gate of a video comes from its *own* caption, so that every text is compared with one vector a video.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.products import product

TINY_NORM = 1e-6
"""The least length that a gated vector is divided by."""


def gram(values: Tensor) -> Tensor:
    """G_mn = <y_m, y_n> of every video: values (V, N, D) -> (V, N, N)."""
    return values @ values.transpose(-1, -2)


def gated_score(attention: Tensor, similarity: Tensor, gram_matrix: Tensor) -> Tensor:
    """(sum_n c_n x_n) / sqrt(c' G c): attention c and similarity x (T, V, N), G (V, N, N) -> (T, V)."""
    numerator = (attention * similarity).sum(dim=-1)
    # (V, T, N) @ (V, N, N) -> (V, T, N): one matrix product a video for all of its texts.
    mixed = product(attention.transpose(0, 1), gram_matrix).transpose(0, 1)  # G is its own transpose
    norm_squared = (mixed * attention).sum(dim=-1)
    return numerator / norm_squared.clamp_min(TINY_NORM**2).sqrt()


def gated_vector(attention: Tensor, values: Tensor) -> Tensor:
    """normalise(sum_n c_n y_n): attention (V, N) one gate a video, values (V, N, D) -> (V, D) of unit length."""
    return normalize((attention.unsqueeze(1) @ values).squeeze(1), dim=-1)
