"""Sinkhorn-Knopp: what takes from every video of a pool the share of a bank of captions that is too much."""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 4
"""As UCoFiA's released evaluation has it."""


def sinkhorn_knopp(logits: Tensor, iterations: int = ITERATIONS) -> tuple[Tensor, Tensor]:
    """Logarithms (..., B) and (..., N) of what rows and columns of exp(logits), (..., B, N), are multiplied by.

    With K = exp(logits), the columns' factors are b = 1 / (1 K) at first and then, `iterations` times, the rows' are
    a = 1 / (K b) and the columns' b = 1 / (a K) (Sinkhorn, Knopp: Concerning nonnegative matrices and doubly stochastic
    matrices, Pacific Journal of Mathematics 1967). Every column then sums to 1, and the more iterations, the nearer
    every row to one and the same sum, N / B. It works in the log domain, where nothing overflows.
    """
    columns = -logits.logsumexp(dim=-2)  # (..., N)
    rows = torch.zeros_like(logits[..., 0])  # (..., B)
    for _ in range(iterations):
        rows = -(logits + columns.unsqueeze(-2)).logsumexp(dim=-1)
        columns = -(logits + rows.unsqueeze(-1)).logsumexp(dim=-2)
    return rows, columns


def video_offsets(bank: Tensor, scale: float) -> Tensor:
    """What is added to the similarities of every video: those of a bank (..., B, N) -> (..., N), 0 on the average.

    scale: what similarities are multiplied by to be logits.
    """
    _, columns = sinkhorn_knopp(scale * bank)
    # A constant more on all videos ranks none of them otherwise: without it scores stay where they were.
    return (columns - columns.mean(dim=-1, keepdim=True)) / scale
