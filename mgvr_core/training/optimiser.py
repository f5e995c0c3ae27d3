"""The optimiser of docs/method.md, section 3: AdamW, two learning rates, warm-up and cosine."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import nn

from mgvr_core.config import Section
from mgvr_core.model.eercf import EERCF


class OptimiserConfig(Section):
    """Defaults are the released training's."""

    lr: float = Field(1e-4, gt=0, description="learning rate of what EERCF adds to CLIP")
    clip_lr_factor: float = Field(1e-3, ge=0, description="CLIP's learning rate as a part of lr; 0 freezes CLIP")
    weight_decay: float = Field(0.2, ge=0, description="decoupled; none on biases, LayerNorm and the logit scale")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the gradient's running mean")
    beta2: float = Field(0.98, ge=0, lt=1, description="decay of its running square")
    eps: float = Field(1e-6, gt=0, description="added to the root of the running square")
    warmup: float = Field(0.1, ge=0, le=1, description="share of all steps in which the rate rises from 0")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")


def build_optimiser(model: EERCF, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over four groups: CLIP's weights and the new ones, each with and without decay; frozen ones are in none."""
    without_decay = _without_decay(model)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        of_clip = name.startswith("clip.")
        if of_clip and config.clip_lr_factor == 0:
            # Without a gradient, lest it take its part of the norm that gradients are clipped to.
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        groups.setdefault((of_clip, name in without_decay), []).append(parameter)
    rates = {True: config.lr * config.clip_lr_factor, False: config.lr}
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": rates[of_clip],
                "full_lr": rates[of_clip],
                "of_clip": of_clip,
                "weight_decay": 0.0 if undecayed else config.weight_decay,
            }
            for (of_clip, undecayed), parameters in groups.items()
        ],
        betas=(config.beta1, config.beta2),
        eps=config.eps,
    )


def set_rates(optimiser: torch.optim.Optimizer, config: OptimiserConfig, step: int, steps: int) -> None:
    """Give every group its learning rate in a step (from 0) of `steps`: a function of these alone."""
    factor = rate_factor(config, step, steps)
    for group in optimiser.param_groups:
        group["lr"] = group["full_lr"] * factor


def rate_factor(config: OptimiserConfig, step: int, steps: int) -> float:
    """The part of the full rate that a step has: a linear rise in the warm-up, then half a cosine to 0 at `steps`."""
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _without_decay(model: nn.Module) -> set[str]:
    norms = {
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for parameter, _ in module.named_parameters(recurse=False)
    }
    biases = {name for name, _ in model.named_parameters() if name.endswith(("bias", "logit_scale"))}
    return norms | biases
