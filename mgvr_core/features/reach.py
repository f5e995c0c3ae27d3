"""How far the tokens of a video stray from its coarse vector: what the proof of a search rests on."""

from __future__ import annotations

import torch
from torch import Tensor

_SLACK = 2.0**-40
"""Of float64 sums over less than 4096 dimensions, relative to a token's length; far more than they err by."""


def reach(video: Tensor, tokens: Tensor, valid: Tensor) -> Tensor:
    """The bounds of a and |u| over a video's tokens y = a v^ + u, with v^ = v / |v| and u orthogonal to v^.

    video v (V, D) as stored; tokens (V, N, D) as decoded; valid (V, N) bool, at least one a video -> (V, 3) float32:
    the least a, the greatest a, the greatest |u|. Computed in float64 and widened by more than that errs, then rounded
    outward to float32: they are bounds of the numbers given. A decoded token that float32 arithmetic has rounded is not
    quite the code's: give what was decoded in float64.
    """
    wide = tokens.double()
    axis = video.double()
    axis = axis / axis.norm(dim=1, keepdim=True)
    along = (wide @ axis.unsqueeze(-1)).squeeze(-1)  # (V, N)
    across = (wide - along.unsqueeze(-1) * axis.unsqueeze(1)).norm(dim=-1)  # (V, N)
    slack = _SLACK * wide.norm(dim=-1)
    infinite = torch.full_like(along, torch.inf)
    least = torch.where(valid, along - slack, infinite).amin(dim=1)
    most = torch.where(valid, along + slack, -infinite).amax(dim=1)
    aside = torch.where(valid, across + slack, -infinite).amax(dim=1)
    return torch.stack([_outward(least, -1), _outward(most, 1), _outward(aside, 1)], dim=1)


def _outward(values: Tensor, direction: int) -> Tensor:
    """float64 (V,) -> the float32 that is not on the wrong side of it."""
    narrow = values.float()
    beyond = torch.nextafter(narrow, torch.full_like(narrow, direction * torch.inf))
    wrong = (narrow.double() - values) * direction < 0
    return torch.where(wrong, beyond, narrow)
