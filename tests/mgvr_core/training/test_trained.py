"""What is trained, by the names of the weights."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from small_models import architecture

from mgvr_core.errors import MgvrError
from mgvr_core.model.eercf import EERCF
from mgvr_core.training.trained import set_trained, trained_parameters

Build = Callable[..., EERCF]
HEADS = {"temporal", "video_projection", "frame_mixing"}


def trained(model: EERCF) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_all_and_heads(tiny_model: Build) -> None:
    model = tiny_model()
    set_trained(model, "all")
    assert trained(model) == {name for name, _ in model.named_parameters()}
    set_trained(model, "heads")
    assert {name.split(".")[0] for name in trained(model)} == HEADS
    some, every = trained_parameters(model)
    assert some == sum(part.numel() for name, part in model.named_parameters() if not name.startswith("clip."))
    assert every == sum(part.numel() for part in model.parameters())


def test_the_last_blocks_with_what_stands_behind_them(tiny_model: Build) -> None:
    """The text tower has two blocks, the image tower one."""
    model = tiny_model()
    set_trained(model, 1)
    blocks = {found[0] for name in trained(model) if (found := re.match(r"clip\..*resblocks\.\d+", name))}
    assert blocks == {"clip.visual.transformer.resblocks.0", "clip.transformer.resblocks.1"}
    others = {name for name in trained(model) if name.startswith("clip.") and "resblocks" not in name}
    assert others == {
        "clip.visual.ln_post.weight",
        "clip.visual.ln_post.bias",
        "clip.visual.proj",
        "clip.ln_final.weight",
        "clip.ln_final.bias",
        "clip.text_projection",
        "clip.logit_scale",
    }
    assert {name.split(".")[0] for name in trained(model)} >= HEADS


def test_more_blocks_than_there_are_is_an_error(tiny_model: Build) -> None:
    with pytest.raises(MgvrError, match="the image tower has 1 blocks, not 2"):
        set_trained(tiny_model(), 2)


def test_blocks_of_another_tower_can_not_be_told(tiny_model: Build) -> None:
    resnet = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 64, "heads": 1, "layers": 2},
    }
    model = tiny_model(architecture=resnet)
    with pytest.raises(MgvrError, match="the image tower is no plain transformer"):
        set_trained(model, 1)
    # open_clip itself would do nothing there, and say nothing.
    with pytest.raises(MgvrError, match="the image tower is no plain transformer"):
        model.recompute_activations()


def test_a_text_tower_in_a_place_of_its_own_is_told_as_well(tiny_model: Build) -> None:
    model = tiny_model(architecture={**architecture(), "custom_text": True})
    set_trained(model, 1)
    assert "clip.text.transformer.resblocks.1.mlp.c_fc.weight" in trained(model)
    model.recompute_activations()
    assert model.clip.text.transformer.grad_checkpointing
    assert model.clip.visual.transformer.grad_checkpointing
