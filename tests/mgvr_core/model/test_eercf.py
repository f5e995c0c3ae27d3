"""Videos to features: padding takes part in nothing, and U belongs to the number of frames it was trained with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.errors import MgvrError
from mgvr_core.model.eercf import EERCF
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.training.losses import LossConfig, eercf_loss

Build = Callable[..., EERCF]

ALL_TERMS = LossConfig(tib_patch=1.0, pearson=1.0, pearson_tib_patch=1.0)
GARBAGE = pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e6, 0.0])


def tensors(videos: VideoFeatures) -> dict[str, Tensor]:
    return {field.name: getattr(videos, field.name) for field in fields(videos)}


def padded(lengths: tuple[int, ...], places: int, garbage: float) -> tuple[Tensor, Tensor]:
    """Videos of these numbers of frames in `places` places: pixels (V, F, 3, 16, 16) and mask (V, F)."""
    mask = torch.arange(places) < torch.tensor(lengths)[:, None]
    pixels = torch.randn(len(lengths), places, 3, 16, 16)
    pixels[~mask] = garbage
    return pixels, mask


@GARBAGE
@torch.no_grad()
def test_padded_frames_leave_no_trace_in_any_feature(tiny_model: Build, garbage: float) -> None:
    model, lengths = tiny_model(), (1, 4, 2)
    pixels, mask = padded(lengths, 5, garbage)
    together = tensors(model.encode_videos(pixels, mask, patches=True))
    for v, length in enumerate(lengths):
        whole = torch.ones(1, length, dtype=torch.bool)
        for name, alone in tensors(model.encode_videos(pixels[v : v + 1, :length], whole, patches=True)).items():
            mine = together[name][v]
            if name != "video":
                assert not mine[length:].any(), f"{name}: what belongs to a padded frame is zero"
                mine = mine[:length]
            torch.testing.assert_close(mine, alone[0], atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def loss_gradients(model: EERCF, pixels: Tensor, mask: Tensor, ids: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    videos = model.encode_videos(pixels, mask, patches=True)
    text = normalize(model.encode_text(ids), dim=-1)
    mixing = model.mixing_for(mask.shape[1])
    eercf_loss(text, videos, model.video_projection, mixing, model.logit_scale(), ALL_TERMS).total.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@GARBAGE
def test_padded_frames_leave_no_trace_in_any_gradient(tiny_model: Build, captions: Tensor, garbage: float) -> None:
    model = tiny_model(frames=5)
    pixels, mask = padded((1, 4, 2), 5, garbage)
    found = loss_gradients(model, pixels, mask, captions)
    clean = loss_gradients(model, pixels.masked_fill(~mask[..., None, None, None], 0.5), mask, captions)
    for name, gradient in found.items():
        assert gradient.isfinite().all(), name
        torch.testing.assert_close(gradient, clean[name], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_video_of_one_frame_is_its_frame(tiny_model: Build) -> None:
    pixels, mask = padded((1,), 3, float("nan"))
    videos = tiny_model().encode_videos(pixels, mask, patches=True)
    torch.testing.assert_close(videos.video[0], videos.temporal[0, 0])


@torch.no_grad()
def test_all_features_have_unit_length_and_only_temporal_ones_know_the_order(tiny_model: Build) -> None:
    model, (pixels, mask) = tiny_model(), padded((3, 3), 3, 0.0)
    forward = tensors(model.encode_videos(pixels, mask, patches=True))
    backward = tensors(model.encode_videos(pixels.flip(1), mask, patches=True))
    for name in ("video", "frames", "temporal", "patches"):
        torch.testing.assert_close(forward[name].norm(dim=-1), torch.ones(forward[name].shape[:-1]))
    for name in ("frames", "patches"):
        torch.testing.assert_close(forward[name], backward[name].flip(1), atol=1e-6, rtol=0)
    assert (forward["temporal"] - backward["temporal"].flip(1)).abs().max() > 1e-3
    assert (forward["video"] - backward["video"]).abs().max() > 1e-3


@torch.no_grad()
def test_words_have_unit_length_up_to_the_end_marker_and_the_text_is_the_last(
    tiny_model: Build, captions: Tensor
) -> None:
    model = tiny_model()
    text, words, mask = model.encode_words(captions)
    assert torch.equal(text, normalize(model.encode_text(captions), dim=-1))
    lengths = mask.sum(dim=1)
    assert lengths.tolist() == [3, 5, 8], "one, three and six words between two markers"
    torch.testing.assert_close(words.norm(dim=-1), mask.float())
    torch.testing.assert_close(words[torch.arange(3), lengths - 1], text)


def test_u_at_another_number_of_frames_is_refused_and_can_be_switched_off(tiny_model: Build) -> None:
    model = tiny_model(frames=12)
    with pytest.raises(MgvrError, match=r"12 frames.* have 9\..*frame_mixing false"):
        model.mixing_for(9)
    assert model.mixing_for(9, enabled=False) is None
    assert model.mixing_for(12) is model.frame_mixing


def test_more_frames_than_the_temporal_encoder_has_places_for_are_refused(tiny_model: Build) -> None:
    pixels, mask = padded((9,), 9, 0.0)
    with pytest.raises(MgvrError, match="takes 8 frames at most, not 9"):
        tiny_model().encode_videos(pixels, mask, patches=False)


def test_the_logit_scale_goes_no_higher_than_100(tiny_model: Build) -> None:
    model = tiny_model()
    for value, expected in ((math.log(50), 50), (math.log(100), 100), (math.log(300), 100)):
        with torch.no_grad():
            model.clip.logit_scale.fill_(value)
        assert model.logit_scale().item() == pytest.approx(expected, rel=1e-6)
        assert model.logit_scale().shape == ()


def test_patches_of_a_tower_that_has_none_are_refused(tiny_model: Build) -> None:
    model = tiny_model()
    model.clip.visual.pool_type = "avg"
    pixels, mask = padded((2,), 2, 0.0)
    assert model.patches_per_frame == 0
    with pytest.raises(MgvrError, match="gives no patch features"):
        model.encode_videos(pixels, mask, patches=True)


def test_patches_are_counted_per_frame(tiny_model: Build) -> None:
    assert tiny_model().patches_per_frame == 4
