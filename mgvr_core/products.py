"""Matrix products whose bits do not depend on what else is computed beside them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

_LEAST = 16
"""Rows, and dimensions, from which MKL's product sums in the same order as for any more."""


def product(rows: Tensor, columns: Tensor) -> Tensor:
    """Inner products of every row with every column of a batch: (B, n, D), (B, N, D) float32 -> (B, n, N).

    The bits of one do not depend on n and N. A library sums in one order whatever the size, unless that is small: few
    rows and few dimensions are filled up with zeros, a single column with its like. So a search gives a pair the same
    score whatever else is asked, and the order of k candidates is theirs among all videos.
    """
    n, N, D = rows.shape[1], columns.shape[1], rows.shape[2]
    if D < _LEAST:
        rows, columns = (pad(values, (0, _LEAST - D)) for values in (rows, columns))
    rows = pad(rows, (0, 0, 0, _LEAST - n)) if n < _LEAST else rows
    columns = columns.repeat(1, 2, 1) if N == 1 else columns
    return torch.bmm(rows, columns.transpose(1, 2))[:, :n, :N]
