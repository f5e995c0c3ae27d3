"""The project's own checkpoint: what goes in comes out, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mgvr_core.errors import MgvrError
from mgvr_core.model import checkpoint
from mgvr_core.model.checkpoint import weights_hash
from mgvr_core.model.eercf import EERCF
from mgvr_core.model.load import ModelConfig, load_model

Build = Callable[..., EERCF]


@pytest.fixture
def folder(tiny_model: Build, tmp_path: Path) -> Path:
    place = tmp_path / "runs" / "best"
    checkpoint.save(place, tiny_model(), {"fusion": {"video": 0.5}, "steps": 12})
    return place


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (folder / "config.json").write_text(json.dumps(document))


def test_what_was_saved_is_loaded(tiny_model: Build, tmp_path: Path) -> None:
    model = tiny_model(text_length=6)
    model.train()
    checkpoint.save(tmp_path / "it", model, {"steps": 12})
    loaded = load_model(ModelConfig(checkpoint=str(tmp_path / "it")))
    assert loaded.model.spec == model.spec
    assert weights_hash(loaded.model) == weights_hash(model)
    assert loaded.about == {"steps": 12}
    assert not loaded.model.training
    assert not any(part.training for part in loaded.model.modules())


def test_saving_again_replaces_and_leaves_nothing_else(tiny_model: Build, folder: Path) -> None:
    model = tiny_model(frames=5)
    checkpoint.save(folder, model, {"steps": 13})
    assert weights_hash(checkpoint.load(folder).model) == weights_hash(model)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("replaced", [0, 1])
def test_a_save_that_breaks_off_leaves_no_mixture_of_two_checkpoints(
    tiny_model: Build, folder: Path, monkeypatch: pytest.MonkeyPatch, replaced: int
) -> None:
    """Broken off with none or one of the two files replaced: new weights must not meet the old model's settings."""
    replace, done = Path.replace, []

    def break_off(self: Path, target: Path) -> Path:
        if len(done) == replaced:
            raise KeyboardInterrupt
        done.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", break_off)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(folder, tiny_model(text_length=6), {"steps": 13})
    with pytest.raises(MgvrError, match=r"config\.json"):
        checkpoint.load(folder)


def test_what_cannot_be_written_down_leaves_the_old_checkpoint(tiny_model: Build, folder: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.save(folder, tiny_model(), {"loss": float("nan")})
    assert checkpoint.load(folder).about["steps"] == 12


@pytest.mark.parametrize("name", ["clip.logit_scale", "video_projection", "temporal.blocks.1.mlp.c_fc.bias"])
def test_one_changed_bit_changes_the_hash(tiny_model: Build, name: str) -> None:
    model = tiny_model()
    before = weights_hash(model)
    with torch.no_grad():
        bits = model.get_parameter(name).data.view(torch.int32).view(-1)
        bits[-1] ^= 1
    assert weights_hash(model) != before
    bits[-1] ^= 1
    assert weights_hash(model) == before


def test_a_newer_format_is_refused(folder: Path) -> None:
    edit(folder, lambda document: document.update(format=2))
    with pytest.raises(MgvrError, match=r"format 2, this program reads 1"):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(MgvrError, match=name):
        checkpoint.load(folder)


def test_a_configuration_that_is_no_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{half")
    with pytest.raises(MgvrError, match=r"config\.json"):
        checkpoint.load(folder)


def test_an_unknown_key_of_the_model_is_refused_by_name(folder: Path) -> None:
    edit(folder, lambda document: document["model"].update(temporal_layer=3))
    with pytest.raises(MgvrError, match=r"temporal_layer: unknown key; did you mean temporal_layers\?"):
        checkpoint.load(folder)


def test_weights_of_another_shape_are_refused_by_name(folder: Path) -> None:
    edit(folder, lambda document: document["model"].update(frames=4))
    with pytest.raises(MgvrError, match=r"(?s)do not fit the model.*frame_mixing"):
        checkpoint.load(folder)
