"""The training loss: its value, its gradient, and every term by itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.model.eercf import EERCF
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.training.losses import LossConfig, eercf_loss, pearson_constraint, symmetric_cross_entropy

Build = Callable[..., EERCF]

B, F = 4, 3
LENGTHS = (3, 2, 1, 3)

OFF = dict.fromkeys(LossConfig.model_fields, 0.0)
TERMS = {
    "video": {"weak": 1.0, "video": 1.0},
    "frame_weak": {"weak": 1.0, "frame_weak": 1.0},
    "patch_weak": {"weak": 1.0, "patch_weak": 1.0},
    "tib_frame": {"strong": 1.0, "tib_frame": 1.0},
    "tib_patch": {"strong": 1.0, "tib_patch": 1.0},
    "pearson_video": {"pearson": 1.0, "pearson_video": 1.0},
    "pearson_tib_frame": {"pearson": 1.0, "pearson_tib_frame": 1.0},
    "pearson_tib_patch": {"pearson": 1.0, "pearson_tib_patch": 1.0},
}
CONFIGS = {name: LossConfig(**OFF | term) for name, term in TERMS.items()} | {"released": LossConfig()}
each_term = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


class Batch:
    """Videos of unequal length and their captions, on a model in fp64."""

    def __init__(self, model: EERCF) -> None:
        self.model = model.double()
        self.mask = torch.arange(F) < torch.tensor(LENGTHS)[:, None]
        self.pixels = torch.randn(B, F, 3, 16, 16, dtype=torch.float64)
        self.ids = torch.tensor([[18, *words, 19, 0] for words in torch.randint(1, 18, (B, 3)).tolist()])

    def features(self) -> tuple[Tensor, VideoFeatures]:
        videos = self.model.encode_videos(self.pixels, self.mask, patches=True)
        return normalize(self.model.encode_text(self.ids), dim=-1), videos

    def loss(self, config: LossConfig) -> Tensor:
        text, videos = self.features()
        model = self.model
        return eercf_loss(text, videos, model.video_projection, model.frame_mixing, model.logit_scale(), config).total


@pytest.fixture
def batch(tiny_model: Build) -> Batch:
    return Batch(tiny_model())


Gates = list[tuple[Tensor, Tensor]]


def plain_gates(text: Tensor, videos: VideoFeatures) -> Gates:
    """For every video what its own caption puts on its valid frames, and on its valid patches."""
    gates = []
    for own, frames, patches, n in zip(text, videos.frames, videos.patches, LENGTHS, strict=True):
        flat = patches[:n].flatten(0, 1)
        gates.append(((frames[:n] @ own / 0.1).softmax(dim=0), (flat @ own / 0.01).softmax(dim=0)))
    return gates


def plain_loss(text: Tensor, videos: VideoFeatures, model: EERCF, gates: Gates, config: LossConfig) -> Tensor:
    """docs/method.md, section 3 written out, pair by pair; the gates of the strong scores are given, as constants."""
    s = model.clip.logit_scale.exp()
    frame_vectors, patch_vectors = [], []
    weak = text.new_zeros(B, B)
    for v, n in enumerate(LENGTHS):
        f, g, p = videos.frames[v, :n], videos.temporal[v, :n], videos.patches[v, :n].flatten(0, 1)
        frame_vectors.append(normalize(gates[v][0] @ g, dim=0))
        patch_vectors.append(normalize(gates[v][1] @ p, dim=0))
        for t in range(B):
            x, y = f @ text[t], p @ text[t]
            weak[t, v] += config.video * (text[t] @ model.video_projection @ normalize(g.mean(dim=0), dim=0))
            weak[t, v] += config.frame_weak * ((x / 0.01).softmax(dim=0) @ model.frame_mixing[:n, :n]) @ x
            weak[t, v] += config.patch_weak * (y / 0.01).softmax(dim=0) @ y
    by_frame, by_patch = torch.stack(frame_vectors), torch.stack(patch_vectors)
    strong = config.tib_frame * text @ by_frame.T + config.tib_patch * text @ by_patch.T
    pearson = (
        config.pearson_video * plain_pearson(text, videos.video)
        + config.pearson_tib_frame * plain_pearson(text, by_frame)
        + config.pearson_tib_patch * plain_pearson(text, by_patch)
    )
    return config.weak * plain_ce(s * weak) + config.strong * plain_ce(s * strong) + config.pearson * pearson


def plain_ce(logits: Tensor) -> Tensor:
    right = torch.stack([logits[i, i] for i in range(len(logits))])
    by_text = (logits.exp().sum(dim=1).log() - right).mean()
    by_video = (logits.exp().sum(dim=0).log() - right).mean()
    return (by_text + by_video) / 2


def plain_pearson(a: Tensor, b: Tensor) -> Tensor:
    """The correlation of every channel, short by the factor (B - 1) / B that the released model has."""
    channels = a.shape[1]
    correlations = torch.corrcoef(torch.cat([a.T, b.T]))[:channels, channels:].diagonal()
    return 0.14 * ((len(a) - 1) / len(a) * correlations - 1).square().sum()


@each_term
@torch.no_grad()
def test_the_loss_is_that_of_the_method(batch: Batch, config: LossConfig) -> None:
    text, videos = batch.features()
    expected = plain_loss(text, videos, batch.model, plain_gates(text, videos), config)
    assert expected > 1e-3
    torch.testing.assert_close(batch.loss(config), expected, atol=1e-10, rtol=1e-10)


def part_of(name: str) -> str:
    if not name.startswith("clip."):
        return name.split(".")[0]
    return "image tower" if ".visual." in name else "logit scale" if name.endswith("logit_scale") else "text tower"


@each_term
def test_the_gradient_is_that_of_finite_differences(batch: Batch, config: LossConfig) -> None:
    """Along a random direction in each part of the model. The gates are held: in training they carry no gradient."""
    model = batch.model
    batch.loss(config).backward()
    with torch.no_grad():
        gates = plain_gates(*batch.features())
        parts: dict[str, dict[str, Tensor]] = {}
        for name, parameter in model.named_parameters():
            parts.setdefault(part_of(name), {})[name] = torch.randn_like(parameter)
        assert len(parts) == 6
        reached = set()
        for part, direction in parts.items():
            length = math.sqrt(sum(d.square().sum().item() for d in direction.values()))
            direction = {name: d / length for name, d in direction.items()}
            analytic = sum(
                (gradient * direction[name]).sum().item()
                for name, parameter in model.named_parameters()
                if name in direction and (gradient := parameter.grad) is not None
            )
            numeric = slope(batch, gates, config, direction)
            assert analytic == pytest.approx(numeric, rel=1e-5, abs=1e-8), part
            if abs(numeric) > 1e-6:
                reached.add(part)
    assert {"image tower", "text tower"} <= reached, "a loss that reaches nothing would pass, too"


def slope(batch: Batch, gates: Gates, config: LossConfig, direction: dict[str, Tensor], step: float = 1e-5) -> float:
    """The loss's derivative along a direction by central differences."""

    def shifted(by: float) -> float:
        parameters = dict(batch.model.named_parameters())
        for name, d in direction.items():
            parameters[name] += by * d
        value = plain_loss(*batch.features(), batch.model, gates, config).item()
        for name, d in direction.items():
            parameters[name] -= by * d
        return value

    return (shifted(step) - shifted(-step)) / (2 * step)


@torch.no_grad()
def test_a_loss_without_terms_is_zero(batch: Batch) -> None:
    assert batch.loss(LossConfig(**OFF)).item() == 0.0


@torch.no_grad()
def test_the_parts_add_up_to_the_total(batch: Batch) -> None:
    text, videos = batch.features()
    model, config = batch.model, LossConfig()
    parts = eercf_loss(text, videos, model.video_projection, model.frame_mixing, model.logit_scale(), config)
    torch.testing.assert_close(parts.total, 0.8 * parts.weak + 0.2 * parts.strong + 0.001 * parts.pearson)


WITHOUT_PATCHES = {"patch_weak": 0.0, "tib_patch": 0.0, "pearson_tib_patch": 0.0}


@torch.no_grad()
def test_a_loss_without_patch_terms_needs_no_patches(batch: Batch) -> None:
    text, whole = batch.features()
    videos = VideoFeatures(whole.video, whole.frames, whole.temporal, None, whole.mask)
    model, config = batch.model, LossConfig(**WITHOUT_PATCHES)
    assert not config.needs_patches
    rest = (model.video_projection, model.frame_mixing, model.logit_scale(), config)
    assert torch.equal(eercf_loss(text, videos, *rest).total, eercf_loss(text, whole, *rest).total)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"patch_weak": 0.0}, False),
        ({"weak": 0.0}, False),
        ({"patch_weak": 0.0, "tib_patch": 1.0}, True),
        ({"patch_weak": 0.0, "tib_patch": 1.0, "strong": 0.0}, False),
        ({"patch_weak": 0.0, "pearson_tib_patch": 1.0}, True),
        ({"patch_weak": 0.0, "pearson_tib_patch": 1.0, "pearson": 0.0}, False),
    ],
)
def test_patches_are_needed_by_the_terms_that_read_them(
    batch: Batch, changes: dict[str, float], expected: bool
) -> None:
    config = LossConfig(**changes)
    assert config.needs_patches is expected
    text, whole = batch.features()
    videos = VideoFeatures(whole.video, whole.frames, whole.temporal, None, whole.mask)
    rest = (batch.model.video_projection, batch.model.frame_mixing, batch.model.logit_scale(), config)
    if expected:
        with pytest.raises(ValueError, match="patch features"):
            eercf_loss(text, videos, *rest)
    else:
        assert eercf_loss(text, videos, *rest).total.isfinite()


def test_u_can_be_left_out(batch: Batch) -> None:
    text, videos = batch.features()
    model, config = batch.model, CONFIGS["frame_weak"]
    off, identity, on = (
        eercf_loss(text, videos, model.video_projection, mixing, model.logit_scale(), config).total.item()
        for mixing in (None, torch.eye(F, dtype=torch.float64), model.frame_mixing)
    )
    assert off == pytest.approx(identity, rel=1e-12)
    assert abs(on - off) > 1e-3


def test_the_cross_entropy_is_the_mean_of_both_directions() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [math.log(5.0), math.log(2.0)]])
    by_text = -(math.log(3 / 4) + math.log(2 / 7)) / 2
    by_video = -(math.log(3 / 8) + math.log(2 / 3)) / 2
    assert symmetric_cross_entropy(logits).item() == pytest.approx((by_text + by_video) / 2)
    assert symmetric_cross_entropy(logits.T).item() == pytest.approx((by_text + by_video) / 2)


def test_the_pearson_constraint_wants_equal_channels_and_ignores_their_scale() -> None:
    a = torch.randn(50, 8, dtype=torch.float64)
    best = 0.14 * 8 * (49 / 50 - 1) ** 2  # the product is divided by B, the deviations by B - 1
    assert pearson_constraint(a, 3 * a + 7).item() == pytest.approx(best)
    assert pearson_constraint(a, -a).item() == pytest.approx(0.14 * 8 * (49 / 50 + 1) ** 2)
    b = torch.randn(50, 8, dtype=torch.float64)
    correlations = np.array([np.corrcoef(a[:, d], b[:, d])[0, 1] for d in range(8)])
    assert pearson_constraint(a, b).item() == pytest.approx(0.14 * ((49 / 50 * correlations - 1) ** 2).sum())
