"""Which weights are trained: all, the heads that EERCF adds, or the heads and CLIP's last blocks."""

from __future__ import annotations

from typing import Annotated, Literal

from open_clip.transformer import Transformer
from pydantic import Field
from torch import nn

from mgvr_core.errors import MgvrError
from mgvr_core.model.eercf import EERCF

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
    text = model.clip if hasattr(model.clip, "transformer") else model.clip.text
    for tower, side, behind in (
        (model.clip.visual, "image", ("ln_post", "proj")),
        (text, "text", ("ln_final", "text_projection")),
    ):
        for part in [*_last_blocks(tower, trained, side), *(getattr(tower, name, None) for name in behind)]:
            _thaw(part)
    _thaw(model.clip.logit_scale)


def trained_parameters(model: nn.Module) -> tuple[int, int]:
    """How many numbers are trained, and how many there are."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def _last_blocks(tower: nn.Module, count: int, side: str) -> list[nn.Module]:
    transformer = getattr(tower, "transformer", None)
    if not isinstance(transformer, Transformer):
        raise MgvrError(
            f"trained: the {side} tower is no plain transformer, so its last blocks can't be told: use all or heads"
        )
    blocks = list(transformer.resblocks)
    if len(blocks) < count:
        raise MgvrError(f"trained: the {side} tower has {len(blocks)} blocks, not {count}: use fewer, or all")
    return blocks[-count:]


def _thaw(part: object) -> None:
    if isinstance(part, nn.Parameter | nn.Module):
        part.requires_grad_(True)
