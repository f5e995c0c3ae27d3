"""Checkpoints of a training: what goes on from one is what would have gone on without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.model import checkpoint
from mgvr_core.model.eercf import EERCF
from mgvr_core.training import state
from mgvr_core.training.optimiser import OptimiserConfig, build_optimiser, set_rates
from mgvr_core.training.state import Progress
from mgvr_core.training.trained import set_trained

Build = Callable[..., EERCF]
CONFIG = OptimiserConfig(lr=1e-2, clip_lr_factor=0.1)


def steps(model: EERCF, optimiser: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    """Some steps towards nothing in particular, by a loss that draws random numbers."""
    losses = []
    for step in range(first, last):
        set_rates(optimiser, CONFIG, step, 10)
        optimiser.zero_grad()
        target = torch.randn(())
        loss = sum((parameter - target).square().mean() for parameter in model.parameters() if parameter.requires_grad)
        assert isinstance(loss, Tensor)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def same(one: EERCF, other: EERCF) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("trained", ["all", "heads"])
def test_a_continued_training_is_the_uninterrupted_one_to_the_bit(
    tiny_model: Build, tmp_path: Path, trained: str
) -> None:
    whole, model = tiny_model(), tiny_model()
    model.load_state_dict(whole.state_dict())
    for each in (whole, model):
        set_trained(each, trained)
    torch.manual_seed(1)
    expected = steps(whole, build_optimiser(whole, CONFIG), 0, 6)

    torch.manual_seed(1)
    optimiser = build_optimiser(model, CONFIG)
    losses = steps(model, optimiser, 0, 3)
    progress = Progress(3, {"loss": 0.1}, ({"step": 2, "R@1_fused": 0.25},))
    place = state.save(tmp_path, model, optimiser, progress, {"about": "this"})

    torch.manual_seed(99)
    other = tiny_model()
    set_trained(other, trained)
    fresh = build_optimiser(other, CONFIG)
    assert state.load(place, other, fresh, None) == progress
    assert losses + steps(other, fresh, 3, 6) == expected
    assert same(other, whole)


def test_a_checkpoint_is_a_model_for_the_other_jobs(tiny_model: Build, tmp_path: Path) -> None:
    model = tiny_model()
    place = state.save(tmp_path, model, build_optimiser(model, CONFIG), Progress(7), {"about": "this"})
    assert place.name == "step-00000007"
    loaded = checkpoint.load(place)
    assert same(loaded.model, model)
    assert loaded.about == {"about": "this"}
    assert state.steps(tmp_path) == [7]
    assert state.path_of(tmp_path, 7) == place


def test_nothing_in_it_is_a_pickle(tiny_model: Build, tmp_path: Path) -> None:
    model = tiny_model()
    optimiser = build_optimiser(model, CONFIG)
    steps(model, optimiser, 0, 1)
    for file in state.save(tmp_path, model, optimiser, Progress(1), {}).iterdir():
        _ = load_file(file) if file.suffix == ".safetensors" else json.loads(file.read_text())


def test_what_a_kill_left_half_written_is_no_checkpoint(tiny_model: Build, tmp_path: Path) -> None:
    """It goes once a later checkpoint is there; until then somebody may be writing it."""
    model = tiny_model()
    optimiser = build_optimiser(model, CONFIG)
    half = tmp_path / ".step-00000002.abc"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    for step, there in ((1, True), (2, False)):
        state.save(tmp_path, model, optimiser, Progress(step), {})
        state.prune(tmp_path, [1])
        assert half.exists() is there
        assert state.steps(tmp_path) == list(range(1, step + 1))


def test_saving_a_step_again_replaces_it(tiny_model: Build, tmp_path: Path) -> None:
    model = tiny_model()
    optimiser = build_optimiser(model, CONFIG)
    place = state.save(tmp_path, model, optimiser, Progress(1), {})
    (place / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(MgvrError, match=r"can't go on from .*step-00000001.*Remove that folder"):
        state.load(place, model, optimiser, None)
    state.save(tmp_path, model, optimiser, Progress(1), {})
    assert state.load(place, model, optimiser, None).step == 1


def test_a_checkpoint_of_other_trained_weights_is_refused(tiny_model: Build, tmp_path: Path) -> None:
    model = tiny_model()
    optimiser = build_optimiser(model, CONFIG)
    steps(model, optimiser, 0, 1)
    place = state.save(tmp_path, model, optimiser, Progress(1), {})
    other = tiny_model()
    set_trained(other, "heads")
    with pytest.raises(MgvrError, match="is not trained here"):
        state.load(place, other, build_optimiser(other, CONFIG), None)


def test_the_best_and_the_last_are_kept(tiny_model: Build, tmp_path: Path) -> None:
    model = tiny_model()
    optimiser = build_optimiser(model, CONFIG)
    for step in (2, 4, 5, 6, 8):
        state.save(tmp_path, model, optimiser, Progress(step), {})
    history = [{"step": step, "R@1": value} for step, value in ((2, 0.1), (4, 0.3), (6, 0.3), (8, 0.2))]
    assert state.best(history, "R@1", 2) == [4, 6]
    assert state.best(history, "R@1", 1) == [4]
    assert state.best([{"step": 2}], "R@1", 1) == []
    state.prune(tmp_path, state.best(history, "R@1", 1))
    assert state.steps(tmp_path) == [4, 8]
    assert state.steps(tmp_path / "nowhere") == []


def test_a_checkpoint_of_another_run_is_refused(tiny_model: Build, tmp_path: Path) -> None:
    model = tiny_model()
    optimiser = build_optimiser(model, CONFIG)
    place = state.save(tmp_path, model, optimiser, Progress(1), {"run": "abc"})
    assert state.load(place, model, optimiser, "abc").step == 1
    with pytest.raises(MgvrError, match="belongs to another run, abc, not def"):
        state.load(place, model, optimiser, "def")
