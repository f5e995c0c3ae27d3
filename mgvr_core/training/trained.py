"""Which weights are trained: all, the heads that EERCF adds, or the heads and CLIP's last blocks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from mgvr_core.errors import MgvrError
from mgvr_core.model.eercf import EERCF
from mgvr_core.model.towers import plain_towers

Trained = Literal["all", "heads"] | Annotated[int, Field(ge=1)]
"""all; heads: CLIP is frozen; a number: the heads and that many last blocks of both of CLIP's towers."""


def set_trained(model: EERCF, trained: Trained) -> None:
    """Freeze what is not trained. The heads are the temporal encoder, W and U.

    With the last n blocks of a tower goes what stands behind them: the final LayerNorm, the projection and the logit
    scale. Raises MgvrError where a tower has fewer blocks, or none that can be told apart (ResNet, timm, Hugging Face).
    """
    for parameter in model.clip.parameters():
        parameter.requires_grad_(trained == "all")
    if isinstance(trained, str):
        return
    behind = {"image": ("ln_post", "proj"), "text": ("ln_final", "text_projection")}
    for side, tower in plain_towers(model.clip).items():
        blocks = list(tower.transformer.resblocks)  # type: ignore[union-attr, arg-type]
        if len(blocks) < trained:
            raise MgvrError(f"the {side} tower has {len(blocks)} blocks, not {trained}: use fewer, or all")
        for part in [*blocks[-trained:], *(getattr(tower, name) for name in behind[side]), model.clip.logit_scale]:
            if part is not None:  # a tower may have no projection
                part.requires_grad_(True)


def trained_parameters(model: nn.Module) -> tuple[int, int]:
    """How many numbers are trained, and how many there are."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
