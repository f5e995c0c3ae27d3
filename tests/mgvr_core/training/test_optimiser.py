"""The optimiser's groups and its learning rates step by step."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mgvr_core.model.eercf import EERCF
from mgvr_core.training.optimiser import OptimiserConfig, build_optimiser, rate_factor, set_rates

Build = Callable[..., EERCF]


@pytest.fixture
def settings_of(tiny_model: Build) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter by its name."""
    model = tiny_model()
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optimiser(model, OptimiserConfig()).param_groups
    found = {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found.keys() == set(names.values())
    return found


def test_clip_learns_a_thousand_times_slower_than_what_is_new(settings_of: dict[str, tuple[float, float]]) -> None:
    for name, (rate, _) in settings_of.items():
        assert rate == pytest.approx(1e-7 if name.startswith("clip.") else 1e-4), name


@pytest.mark.parametrize(
    ("name", "decay"),
    [
        ("clip.visual.conv1.weight", 0.2),
        ("clip.visual.ln_post.weight", 0.0),
        ("clip.visual.transformer.resblocks.0.attn.in_proj_weight", 0.2),
        ("clip.visual.transformer.resblocks.0.attn.in_proj_bias", 0.0),
        ("clip.token_embedding.weight", 0.2),
        ("clip.logit_scale", 0.0),
        ("temporal.blocks.0.ln_1.weight", 0.0),
        ("temporal.blocks.0.mlp.c_fc.weight", 0.2),
        ("temporal.blocks.0.mlp.c_fc.bias", 0.0),
        ("video_projection", 0.2),
        ("frame_mixing", 0.2),
    ],
)
def test_norms_and_biases_do_not_decay(settings_of: dict[str, tuple[float, float]], name: str, decay: float) -> None:
    assert settings_of[name][1] == decay


def test_a_factor_of_zero_leaves_clip_as_it_is(tiny_model: Build) -> None:
    model = tiny_model()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimiser = build_optimiser(model, OptimiserConfig(clip_lr_factor=0))
    sum(parameter.square().sum() + parameter.sum() for parameter in model.parameters()).backward()
    optimiser.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is name.startswith("clip."), name


def rates(steps: int, **config: float) -> list[float]:
    return [rate_factor(OptimiserConfig(**config), step, steps) for step in range(steps)]


def test_every_group_has_its_part_of_the_rate(tiny_model: Build) -> None:
    optimiser = build_optimiser(tiny_model(), OptimiserConfig())
    for step in (0, 99, 3):  # whatever came before
        set_rates(optimiser, OptimiserConfig(), step, 100)
        factor = rate_factor(OptimiserConfig(), step, 100)
        assert {group["of_clip"]: group["lr"] for group in optimiser.param_groups} == {
            True: pytest.approx(1e-7 * factor),
            False: pytest.approx(1e-4 * factor),
        }


def test_the_rate_rises_for_a_tenth_of_the_steps_and_falls_as_a_cosine() -> None:
    found = rates(100)
    assert found[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert found[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 90)) for step in range(90)])


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.1), (3, 0.0), (5, 1.0)])
def test_the_shortest_trainings_still_learn(steps: int, warmup: float) -> None:
    assert all(0 < rate <= 1 for rate in rates(steps, warmup=warmup))
