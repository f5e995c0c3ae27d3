"""The temporal encoder: frames that have seen their neighbours."""

from __future__ import annotations

from functools import partial

import torch
from open_clip.transformer import LayerNorm, QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from mgvr_core.errors import MgvrError

HEAD_WIDTH = 64
"""Dimensions of one attention head in CLIP's text transformer and in the temporal blocks that copy it."""


class TemporalEncoder(nn.Module):
    """Pre-norm residual attention over the frames of a video, added to the frames (docs/method.md, section 1).

    normalise(blocks(f + pos)_j + f_j) are the temporal frames; the normalisation is the caller's. LayerNorm's epsilon
    is 1e-12 as in the released model, where CLIP's own is 1e-5; the activation is QuickGELU whatever the towers use.
    """

    def __init__(self, dim: int, layers: int, positions: int) -> None:
        super().__init__()
        self.heads = dim // HEAD_WIDTH
        self.positions = nn.Parameter(torch.empty(positions, dim))
        nn.init.normal_(self.positions, std=0.01)
        self.blocks = nn.ModuleList(
            ResidualAttentionBlock(dim, self.heads, act_layer=QuickGELU, norm_layer=partial(LayerNorm, eps=1e-12))
            for _ in range(layers)
        )

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """frames (V, F, D) unnormalised, mask (V, F) bool -> (V, F, D); padded frames come out as zeros.

        Raises MgvrError where a video has more frames than there are learned positions.
        """
        V, F, _ = frames.shape
        if len(self.positions) < F:
            raise MgvrError(f"the model's temporal encoder takes {len(self.positions)} frames at most, not {F}")
        x = frames + self.positions[:F]
        # A video without any frame looks at its first place, which is zeroed below: softmax of nothing is NaN.
        mask_or_first = mask.clone()
        mask_or_first[:, 0] |= ~mask.any(dim=1)
        # Every query may look at valid frames only: (V, F) -> (V * heads, F, F), additive.
        bias = torch.zeros(V, 1, 1, F, dtype=x.dtype, device=x.device).masked_fill(
            ~mask_or_first[:, None, None], float("-inf")
        )
        bias = bias.expand(V, self.heads, F, F).reshape(V * self.heads, F, F)
        for block in self.blocks:
            x = block(x, attn_mask=bias)
        return (x + frames) * mask.unsqueeze(-1)

    def start_from_text(self, blocks: nn.ModuleList, positions: Tensor) -> None:
        """Copy the first blocks and the positional embedding of CLIP's text transformer (docs/method.md, section 1).

        Raises ValueError where their widths differ from this encoder's, or where the text tower has fewer blocks.
        """
        if positions.shape[1] != self.positions.shape[1] or len(blocks) < len(self.blocks):
            raise ValueError("the text tower's width or depth does not fit the temporal encoder")
        for mine, theirs in zip(self.blocks, blocks, strict=False):
            mine.load_state_dict(theirs.state_dict())
        with torch.no_grad():
            rows = min(len(self.positions), len(positions))
            self.positions[:rows] = positions[:rows]
