"""The int8 image tower: as near to fp32 as it says, and nothing of the given model changed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.model import checkpoint
from mgvr_core.model.checkpoint import weights_hash
from mgvr_core.model.eercf import EERCF
from mgvr_core.model.int8 import _Linear, quantise
from mgvr_core.scoring.features import VideoFeatures

VIDEOS, FRAMES, SIZE = 6, 3, 16
COSINE = 0.999
"""What quantise's docstring promises."""


@pytest.fixture
def model(tiny_model: Callable[..., EERCF]) -> EERCF:
    """Four blocks deep and of two heads: errors add up, and heads could be mixed up."""
    architecture = dict(tiny_model().spec.architecture)
    architecture["vision_cfg"] = {**architecture["vision_cfg"], "layers": 4, "width": 128}
    return tiny_model(architecture=architecture)


@pytest.fixture
def pixels() -> Tensor:
    """Videos (V, F, 3, S, S) of soft blobs, each of its own contrast: one range for all would cost the faint ones."""
    blobs = torch.randn(VIDEOS * FRAMES, 3, 4, 4)
    images = torch.nn.functional.interpolate(blobs, size=(SIZE, SIZE), mode="bilinear")
    return images.reshape(VIDEOS, FRAMES, 3, SIZE, SIZE) * torch.logspace(-1, 1, VIDEOS).reshape(-1, 1, 1, 1, 1)


def encode(model: EERCF, pixels: Tensor, mask: Tensor | None = None) -> VideoFeatures:
    mask = torch.ones(pixels.shape[:2], dtype=torch.bool) if mask is None else mask
    with torch.inference_mode():
        return model.encode_videos(pixels, mask, patches=True)


def least_cosines(ours: VideoFeatures, theirs: VideoFeatures) -> dict[str, float]:
    kinds = ("video", "frames", "temporal", "patches")
    return {kind: float((getattr(ours, kind) * getattr(theirs, kind)).sum(dim=-1).min()) for kind in kinds}


def same(ours: VideoFeatures, theirs: VideoFeatures) -> bool:
    return all(torch.equal(getattr(ours, field.name), getattr(theirs, field.name)) for field in fields(ours))


def test_every_feature_is_near_its_fp32_twin(model: EERCF, pixels: Tensor) -> None:
    ours, theirs = encode(quantise(model), pixels), encode(model, pixels)
    assert not same(ours, theirs)  # else nothing was quantised
    cosines = least_cosines(ours, theirs)
    assert min(cosines.values()) >= COSINE, cosines


def test_channels_that_stand_out_cost_little(model: EERCF, pixels: Tensor) -> None:
    # Trained towers have a few channels far larger than the rest. These compute the same as before, by such channels.
    wanted = encode(model, pixels)
    with torch.no_grad():
        for block in model.clip.visual.transformer.resblocks:
            for norm, weight in ((block.ln_1, block.attn.in_proj_weight), (block.ln_2, block.mlp.c_fc.weight)):
                norm.weight[:2] *= 10
                norm.bias[:2] *= 10
                weight[:, :2] /= 10
    assert min(least_cosines(encode(model, pixels), wanted).values()) > 0.99999
    cosines = least_cosines(encode(quantise(model), pixels), wanted)
    assert min(cosines.values()) >= COSINE, cosines


def test_a_video_does_not_depend_on_those_beside_it(model: EERCF, pixels: Tensor) -> None:
    int8 = quantise(model)
    together = encode(int8, pixels)
    for row in range(VIDEOS):
        # Not to the bit: fp32's own sums differ with a batch's size too, and can tip one activation to the next code.
        alone = encode(int8, pixels[row : row + 1])
        torch.testing.assert_close(alone.frames[0], together.frames[row], atol=2e-3, rtol=0)


def test_padded_frames_change_nothing(model: EERCF, pixels: Tensor) -> None:
    int8 = quantise(model)
    mask = torch.ones(VIDEOS, FRAMES, dtype=torch.bool)
    mask[::2, -1] = False
    garbage = torch.where(mask[:, :, None, None, None], pixels, torch.tensor(1e6))
    made = encode(int8, pixels, mask)
    assert same(made, encode(int8, garbage, mask))
    assert not made.frames[~mask].any()
    assert not made.patches[~mask].any()
    assert least_cosines(made, encode(model, pixels, mask))["video"] >= COSINE


def test_twice_gives_the_same(model: EERCF, pixels: Tensor) -> None:
    assert same(encode(quantise(model), pixels), encode(quantise(model), pixels))


def test_the_given_model_stays_as_it_was(model: EERCF, pixels: Tensor) -> None:
    before, features = weights_hash(model), encode(model, pixels)
    int8 = quantise(model)
    encode(int8, pixels)
    assert weights_hash(model) == before
    assert same(encode(model, pixels), features)
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(weight.requires_grad for weight in int8.parameters())


def test_texts_are_as_before(model: EERCF, captions: Tensor) -> None:
    with torch.inference_mode():
        # Not to the bit: nn.MultiheadAttention adds in another order where no weight asks for a gradient.
        torch.testing.assert_close(quantise(model).encode_text(captions), model.encode_text(captions))


def _in_a_worker(folder: str, pixels: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    answers.put(encode(quantise(checkpoint.load(Path(folder)).model), torch.from_numpy(pixels)).frames.numpy())


def test_a_fresh_process_gives_the_same(model: EERCF, pixels: Tensor, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, model, {})
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    worker = context.Process(target=_in_a_worker, args=(str(tmp_path), pixels.numpy(), answers))
    worker.start()
    frames = torch.from_numpy(answers.get(timeout=120))
    worker.join(30)
    assert torch.equal(frames, encode(quantise(model), pixels).frames)


def test_a_layer_against_the_plain_formula() -> None:
    weight, bias, x = torch.randn(24, 40), torch.randn(24), torch.randn(5, 7, 40)
    x[0, 0] = 3.0  # a row without a range
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    step = ((high - low) / 255).clamp(min=1e-12)
    scale = weight.abs().amax(1, keepdim=True) / 63
    rounded = low + step * ((x - low) / step).round()
    torch.testing.assert_close(_Linear(weight, bias)(x), rounded @ (scale * (weight / scale).round()).T + bias)


def test_the_largest_codes_do_not_overflow() -> None:
    # All at the ends of their ranges: pairs of products are as large as they get, 16 bits just hold them.
    weight, x = torch.ones(8, 512), torch.ones(1, 512)
    x[0, 0] = 0.0  # so that the range is 0 … 1
    torch.testing.assert_close(_Linear(weight, torch.zeros(8))(x), torch.full((1, 8), 511.0))


def test_a_model_elsewhere_is_refused(model: EERCF) -> None:
    with pytest.raises(MgvrError, match="int8 runs on a CPU"):
        quantise(model.to("meta"))


def test_a_pytorch_without_the_engine_is_refused(model: EERCF, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(MgvrError, match="no oneDNN"):
        quantise(model)


def test_a_tower_of_another_kind_is_refused(tiny_model: Callable[..., EERCF], model: EERCF) -> None:
    architecture = dict(tiny_model().spec.architecture)
    architecture["vision_cfg"] = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    with pytest.raises(MgvrError, match="plain ViT"):
        quantise(tiny_model(architecture=architecture))
    with pytest.raises(MgvrError, match="plain ViT"):
        quantise(quantise(model))
