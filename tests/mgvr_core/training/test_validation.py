"""What a split is measured by: every score over all videos, and the rerank of the candidates of stage 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mgvr_core.model.eercf import EERCF
from mgvr_core.model.spec import ModelSpec
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.fusion import FusionWeights, fuse, score_each
from mgvr_core.training.validation import Scores, fit_weights, ranks_of, recalls, score_split

T, V, F, P, D = 300, 12, 3, 4, 64


@pytest.fixture(scope="module")
def model() -> EERCF:
    torch.manual_seed(0)
    architecture = {
        "embed_dim": D,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1},
        "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 64, "heads": 1, "layers": 1},
    }
    return EERCF(ModelSpec(architecture=architecture, frames=F, temporal_layers=1)).eval()


@pytest.fixture(scope="module")
def videos() -> VideoFeatures:
    torch.manual_seed(1)
    frames, temporal, patches = torch.randn(V, F, D), torch.randn(V, F, D), torch.randn(V, F, P, D)
    return VideoFeatures(
        video=normalize(temporal.mean(dim=1), dim=-1),
        frames=normalize(frames, dim=-1),
        temporal=normalize(temporal, dim=-1),
        patches=normalize(patches, dim=-1),
        mask=torch.ones(V, F, dtype=torch.bool),
    )


def split(model: EERCF, videos: VideoFeatures, active: FusionWeights):
    """Texts near one frame of their video, videos in two blocks."""
    torch.manual_seed(2)
    owner = torch.arange(T) % V
    near = videos.frames[owner, torch.randint(F, (T,))] + 0.12 * torch.randn(T, D)
    blocks = [VideoFeatures(*(part[rows] for part in vars(videos).values())) for rows in (slice(0, 7), slice(7, V))]
    text = normalize(near, dim=-1)
    with torch.inference_mode():
        return text, score_split(model, text, blocks, owner.numpy(), model.frame_mixing, active)


@torch.inference_mode()
def test_scores_are_those_of_all_pairs_at_once(model: EERCF, videos: VideoFeatures) -> None:
    weights = FusionWeights(tib_patch=0.1)
    text, found = split(model, videos, weights)
    expected = score_each(text, videos, model.video_projection, model.frame_mixing, weights)
    assert found.each.keys() == expected.keys()
    for name, scores in expected.items():
        np.testing.assert_allclose(found.each[name], scores.numpy(), atol=1e-5)


def test_what_the_rerank_does_not_read_is_measured_if_it_is_cheap(model: EERCF, videos: VideoFeatures) -> None:
    _, found = split(model, videos, FusionWeights(frame_weak=0, tib_frame=0, patch_weak=0))
    assert found.each.keys() == {"video", "frame_weak", "tib_frame"}


def test_ranks_of_a_rerank_are_those_of_the_candidates(model: EERCF, videos: VideoFeatures) -> None:
    """Written out: the fused score orders the k best by the coarse score, the others follow."""
    weights, k = FusionWeights(), 5
    _, scores = split(model, videos, weights)
    found = ranks_of(scores, {"fused": weights}, k)
    coarse, whole = scores.each["video"], fuse({n: torch.from_numpy(s) for n, s in scores.each.items()}, weights)
    for query in range(0, T, 17):
        candidates = np.argsort(-coarse[query], kind="stable")[:k]
        order = [*sorted(candidates, key=lambda video: -whole[query, video].item())]
        order += [video for video in np.argsort(-coarse[query], kind="stable") if video not in candidates]
        assert found["fused"].mid[query] == 1 + order.index(scores.owner[query])
        right = coarse[query, scores.owner[query]]
        assert found["video"].mid[query] == 1 + (coarse[query] > right).sum()
    assert recalls(found)["R@1_fused"] == np.mean(found["fused"].mid == 1)


def test_fitted_weights_are_better_on_what_they_were_fitted_to(model: EERCF, videos: VideoFeatures) -> None:
    given = FusionWeights(video=3.0, frame_weak=0.1, tib_frame=0.1, patch_weak=0.1)
    _, scores = split(model, videos, given)
    fitted, was_fitted = fit_weights(scores, given, "fitted", V)
    assert was_fitted
    found = recalls(ranks_of(scores, {"fused": fitted, "released": given}, V))
    assert found["R@1_fused"] > found["R@1_released"]
    assert fitted.frame_weak > fitted.video
    assert fit_weights(scores, given, "released", V) == (given, False)


def test_weights_stay_as_they_are_where_nothing_right_was_recalled(model: EERCF, videos: VideoFeatures) -> None:
    _, scores = split(model, videos, FusionWeights())
    best = scores.each["video"].argmax(axis=1)
    missed = Scores(scores.each, scores.queries, scores.videos, (best + 1) % V)
    assert fit_weights(missed, FusionWeights(), "fitted", 1) == (FusionWeights(), False)
