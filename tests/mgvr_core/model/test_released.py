"""Released checkpoints of the EERCF and CLIP4Clip family, made here with random weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.model.checkpoint import Checkpoint
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.scoring.fusion import FusionWeights, score_each

V, F = 4, 3


def load(file: Path) -> Checkpoint:
    return load_model(ModelConfig(checkpoint=str(file)))


def write(file: Path, content: object) -> Path:
    torch.save(content, file)
    return file


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def plain_temporal(weights: dict[str, Tensor], frames: Tensor) -> Tensor:
    """docs/method.md, section 1: pre-norm attention blocks over f + pos, added to f. frames (F, D) -> (F, D)."""

    def layer_norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)
        return centred / (variance + 1e-12).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = frames + weights["frame_position_embeddings.weight"][: len(frames)]
    for block in range(2):
        name = f"transformerClip.resblocks.{block}"
        inner = layer_norm(x, f"{name}.ln_1")
        projected = inner @ weights[f"{name}.attn.in_proj_weight"].T + weights[f"{name}.attn.in_proj_bias"]
        query, key, value = projected.chunk(3, dim=-1)
        attention = (query @ key.T / 64**0.5).softmax(dim=-1)  # one head: D = 64
        x = x + linear(attention @ value, f"{name}.attn.out_proj")
        hidden = linear(layer_norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), f"{name}.mlp.c_proj")
    return x + frames


def plain_scores(
    weights: dict[str, Tensor], architecture: dict[str, object], ids: Tensor, pixels: Tensor
) -> dict[str, Tensor]:
    """The five scores of docs/method.md, section 2, pair by pair, on open_clip's own towers."""
    clip = CLIP(**architecture).eval()
    clip.load_state_dict({name[5:]: tensor for name, tensor in weights.items() if name.startswith("clip.")})
    W = weights.get("global_mat_weight", torch.eye(64))
    U = weights.get("frame_logit_weight", torch.eye(F))
    texts = unit(clip.encode_text(ids))
    clip.visual.output_tokens = True
    scores = {name: torch.empty(len(texts), len(pixels)) for name in FusionWeights.model_fields}
    for v, video in enumerate(pixels):
        frames, tokens = clip.visual(video)
        f, p = unit(frames), unit(tokens @ clip.visual.proj).flatten(0, 1)
        g = unit(plain_temporal(weights, frames))
        for t, text in enumerate(texts):
            b = (p @ text / 0.01).softmax(dim=0)
            scores["video"][t, v] = text @ W @ unit(g.mean(dim=0))
            scores["frame_weak"][t, v] = ((f @ text / 0.01).softmax(dim=0) @ U) @ (f @ text)
            scores["patch_weak"][t, v] = b @ (p @ text)
            scores["tib_frame"][t, v] = text @ unit((f @ text / 0.1).softmax(dim=0) @ g)
            scores["tib_patch"][t, v] = text @ unit(b @ p)
    return scores


def our_scores(loaded: Checkpoint, ids: Tensor, pixels: Tensor) -> dict[str, Tensor]:
    model = loaded.model
    videos = model.encode_videos(pixels, torch.ones(pixels.shape[:2], dtype=torch.bool), patches=True)
    text = unit(model.encode_text(ids))
    every = FusionWeights(**dict.fromkeys(FusionWeights.model_fields, 1.0))
    return score_each(text, videos, model.video_projection, model.mixing_for(pixels.shape[1]), every)


@torch.no_grad()
def assert_right_scores(loaded: Checkpoint, weights: dict[str, Tensor], captions: Tensor) -> None:
    pixels = torch.randn(V, F, 3, 16, 16)
    expected = plain_scores(weights, loaded.model.spec.architecture, captions, pixels)
    mine = our_scores(loaded, captions, pixels)
    for name, score in expected.items():
        torch.testing.assert_close(mine[name], score, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_a_released_checkpoint_gives_the_scores_of_the_method(
    released_weights: dict[str, Tensor], captions: Tensor, tmp_path: Path
) -> None:
    loaded = load(write(tmp_path / "pytorch_model.bin", released_weights))
    assert loaded.notes == ()
    assert_right_scores(loaded, released_weights, captions)


def test_the_structure_is_read_off_the_shapes(released_weights: dict[str, Tensor], tmp_path: Path) -> None:
    spec = load(write(tmp_path / "model.pt", released_weights)).model.spec
    assert (spec.dim, spec.image_size, spec.activation) == (64, 16, "quickgelu")
    assert (spec.frames, spec.temporal_layers, spec.temporal_positions, spec.text_length) == (3, 2, 8, 8)
    assert spec.architecture["vision_cfg"]["patch_size"] == 8
    assert spec.architecture["text_cfg"]["vocab_size"] == 20


@pytest.mark.parametrize(
    ("file", "wrap"),
    [
        ("prefixed.bin", lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()}),
        ("state_dict.pt", lambda weights: {"state_dict": weights, "epoch": 4}),
        ("model_state_dict.pt", lambda weights: {"model_state_dict": weights}),
        (
            "both.pt",
            lambda weights: {"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}, "epoch": 4},
        ),
    ],
)
def test_the_wrappings_people_save_make_no_difference(
    released_weights: dict[str, Tensor],
    tmp_path: Path,
    file: str,
    wrap: Callable[[dict[str, Tensor]], object],
) -> None:
    plain = load(write(tmp_path / "plain.pt", released_weights)).model.state_dict()
    wrapped = load(write(tmp_path / file, wrap(released_weights))).model.state_dict()
    assert plain.keys() == wrapped.keys()
    assert all(torch.equal(plain[name], wrapped[name]) for name in plain)


def test_safetensors_give_the_same_model(released_weights: dict[str, Tensor], captions: Tensor, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in released_weights.items()}, file)
    assert_right_scores(load(file), released_weights, captions)


def test_half_precision_weights_are_computed_with_in_fp32(
    released_weights: dict[str, Tensor], captions: Tensor, tmp_path: Path
) -> None:
    half = {name: tensor.half() for name, tensor in released_weights.items()}
    loaded = load(write(tmp_path / "half.pt", half))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert_right_scores(loaded, {name: tensor.float() for name, tensor in half.items()}, captions)


def test_clip4clip_has_neither_w_nor_u_and_gets_identities(
    released_weights: dict[str, Tensor], captions: Tensor, tmp_path: Path
) -> None:
    weights = {name: released_weights[name] for name in released_weights if not name.endswith("_weight") or "." in name}
    assert released_weights.keys() - weights.keys() == {"global_mat_weight", "frame_logit_weight"}
    loaded = load(write(tmp_path / "clip4clip.bin", weights))
    assert torch.equal(loaded.model.video_projection, torch.eye(64))
    assert torch.equal(loaded.model.frame_mixing, torch.eye(12))
    assert [note.split(" has no ")[1].split(":")[0] for note in loaded.notes] == [
        "frame_logit_weight (U)",
        "global_mat_weight (W)",
    ]
    loaded.model.frame_mixing = torch.nn.Parameter(torch.eye(F))
    loaded.model.spec = loaded.model.spec.model_copy(update={"frames": F})
    assert_right_scores(loaded, weights, captions)


def test_weights_of_another_model_of_the_family_are_refused_by_name(
    released_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    file = write(tmp_path / "xclip.bin", released_weights | {"word_mat_weight": torch.eye(32)})
    with pytest.raises(MgvrError, match=r"xclip\.bin.*word_mat_weight"):
        load(file)


@pytest.mark.parametrize(
    "name",
    [
        "clip.visual.conv1.weight",
        "clip.visual.ln_post.bias",
        "clip.text_projection",
        "clip.token_embedding.weight",
        "frame_position_embeddings.weight",
        "transformerClip.resblocks.0.ln_2.weight",
    ],
)
@pytest.mark.parametrize("clip4clip", [False, True], ids=["EERCF", "CLIP4Clip"])
def test_a_missing_weight_is_named_as_the_file_would_name_it(
    released_weights: dict[str, Tensor], tmp_path: Path, name: str, clip4clip: bool
) -> None:
    del released_weights[name]
    if clip4clip:
        del released_weights["global_mat_weight"]
    with pytest.raises(MgvrError, match=r"lossy\.pt") as refusal:
        load(write(tmp_path / "lossy.pt", released_weights))
    assert name in str(refusal.value)


def test_plain_clip_weights_are_told_from_a_released_model(released_weights: dict[str, Tensor], tmp_path: Path) -> None:
    clip = {name.removeprefix("clip."): tensor for name, tensor in released_weights.items() if name.startswith("clip.")}
    with pytest.raises(MgvrError, match=r"model\.name and model\.weights"):
        load(write(tmp_path / "clip.pt", clip))


class Bomb:
    """An object whose unpickling would make a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


def test_a_pickle_that_would_run_something_is_refused_and_does_not_run(
    released_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    place = tmp_path / "it-ran"
    file = write(tmp_path / "bomb.bin", {"state_dict": released_weights, "extra": Bomb(place)})
    with pytest.raises(MgvrError, match=r"bomb\.bin is a pickle that holds more than tensors"):
        load(file)
    assert not place.exists()
    torch.load(file, weights_only=False)  # the file is what it is meant to be
    assert place.exists()
