"""The five scores against their formulas written out pair by pair, and what padding may do to them: nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.fusion import FusionWeights, fuse, multiply_adds, score_each
from mgvr_core.scoring.tib import gated_score, gram
from mgvr_core.scoring.tib_frame import tib_frame, tib_frame_vector
from mgvr_core.scoring.tib_patch import tib_patch, tib_patch_vector
from mgvr_core.scoring.video import project_text, video_score
from mgvr_core.scoring.weights import masked_softmax

NAMES = ("video", "frame_weak", "tib_frame", "patch_weak", "tib_patch")
EVERY = FusionWeights(**dict.fromkeys(NAMES, 1.0))

sizes = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def unit(*shape: int) -> Tensor:
    return normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def random_videos(V: int, F: int, P: int, D: int) -> VideoFeatures:
    """Videos with at least one valid frame each, anywhere; finite garbage, by no means small, in the other places."""
    mask = torch.rand(V, F) < 0.6
    mask[torch.arange(V), torch.randint(F, (V,))] = True
    frames, temporal, patches = unit(V, F, D), unit(V, F, D), unit(V, F, P, D)
    for tensor in (frames, temporal, patches):
        tensor[~mask] = 1e3
    return VideoFeatures(unit(V, D), frames, temporal, patches, mask)


def plain_scores(text: Tensor, videos: VideoFeatures, W: Tensor, U: Tensor) -> dict[str, Tensor]:
    """docs/method.md, section 2, on the valid frames of each video alone."""
    scores = {name: torch.empty(len(text), len(videos), dtype=torch.float64) for name in NAMES}
    for v, valid in enumerate(videos.mask):
        f, g, p = videos.frames[v][valid], videos.temporal[v][valid], videos.patches[v][valid].flatten(0, 1)
        mixing = U[valid][:, valid]
        for t, words in enumerate(text):
            a, c, b = (
                (f @ words / 0.01).softmax(dim=0) @ mixing,
                (f @ words / 0.1).softmax(dim=0),
                (p @ words / 0.01).softmax(dim=0),
            )
            scores["video"][t, v] = words @ W @ videos.video[v]
            scores["frame_weak"][t, v] = sum(a[j] * (words @ f[j]) for j in range(len(f)))
            scores["patch_weak"][t, v] = sum(b[n] * (words @ p[n]) for n in range(len(p)))
            scores["tib_frame"][t, v] = words @ normalize(sum(c[j] * g[j] for j in range(len(g))), dim=0)
            scores["tib_patch"][t, v] = words @ normalize(sum(b[n] * p[n] for n in range(len(p))), dim=0)
    return scores


@settings(deadline=None)
@given(T=sizes, V=sizes, F=sizes, P=sizes, D=st.integers(2, 9), seed=seeds)
def test_every_score_is_its_formula_over_the_valid_frames(T: int, V: int, F: int, P: int, D: int, seed: int) -> None:
    torch.manual_seed(seed)
    text, videos, W, U = unit(T, D), random_videos(V, F, P, D), unit(D, D), torch.randn(F, F, dtype=torch.float64)
    expected, mine = plain_scores(text, videos, W, U), score_each(text, videos, W, U, EVERY)
    assert tuple(mine) == NAMES
    for name in NAMES:
        torch.testing.assert_close(mine[name], expected[name], atol=1e-9, rtol=1e-9)


@settings(deadline=None)
@given(V=sizes, F=sizes, extra=st.integers(1, 4), seed=seeds)
def test_a_padded_video_scores_as_the_video_without_padding(V: int, F: int, extra: int, seed: int) -> None:
    """With a U whose other entries are large: what it hands to a padded frame is dropped."""
    torch.manual_seed(seed)
    P, D = 3, 6
    text, video, W, U = unit(3, D), unit(V, D), unit(D, D), torch.randn(F, F, dtype=torch.float64)
    places = torch.randperm(F + extra)[:F].sort().values
    mask = torch.zeros(V, F + extra, dtype=torch.bool).index_fill(1, places, True)

    def spread(tensor: Tensor) -> Tensor:
        wide = torch.full((V, F + extra, *tensor.shape[2:]), 100.0, dtype=torch.float64)
        wide[:, places] = tensor
        return wide

    frames, temporal, patches = unit(V, F, D), unit(V, F, D), unit(V, F, P, D)
    wide_mixing = torch.full((F + extra, F + extra), 7.0, dtype=torch.float64)
    wide_mixing[places[:, None], places] = U
    whole = VideoFeatures(video, frames, temporal, patches, torch.ones(V, F, dtype=torch.bool))
    padded = VideoFeatures(video, spread(frames), spread(temporal), spread(patches), mask)
    alone, mine = score_each(text, whole, W, U, EVERY), score_each(text, padded, W, wide_mixing, EVERY)
    for name in NAMES:
        torch.testing.assert_close(mine[name], alone[name], atol=1e-12, rtol=0)


def test_a_video_of_one_frame_is_that_frame_to_every_text() -> None:
    text, videos = unit(4, 6), random_videos(2, 3, 1, 6)
    mask = torch.tensor([[True, False, False], [False, False, True]])
    one = VideoFeatures(videos.video, unit(2, 3, 6), unit(2, 3, 6), unit(2, 3, 1, 6), mask)
    scores = score_each(text, one, torch.eye(6, dtype=torch.float64), None, EVERY)
    torch.testing.assert_close(scores["frame_weak"], text @ one.frames[mask].T)
    torch.testing.assert_close(scores["tib_frame"], text @ one.temporal[mask].T)
    torch.testing.assert_close(scores["patch_weak"], text @ one.patches[mask][:, 0].T)
    torch.testing.assert_close(scores["tib_patch"], text @ one.patches[mask][:, 0].T)


def test_u_is_applied_from_the_right_to_the_row_of_weights() -> None:
    text, videos, U = unit(2, 6), random_videos(2, 3, 1, 6), torch.randn(3, 3, dtype=torch.float64)
    only = FusionWeights(**dict.fromkeys(NAMES, 0.0) | {"frame_weak": 1.0})
    straight, transposed = (score_each(text, videos, torch.eye(6).double(), M, only)["frame_weak"] for M in (U, U.T))
    assert (straight - transposed).abs().max() > 1e-3
    identity, none = (
        score_each(text, videos, torch.eye(6).double(), M, only)["frame_weak"] for M in (torch.eye(3).double(), None)
    )
    torch.testing.assert_close(identity, none)


@settings(deadline=None)
@given(T=sizes, V=sizes, N=st.integers(1, 8), D=st.integers(2, 9), seed=seeds)
def test_the_gram_matrix_replaces_the_weighted_sum(T: int, V: int, N: int, D: int, seed: int) -> None:
    torch.manual_seed(seed)
    text, values, attention = unit(T, D), unit(V, N, D), torch.rand(T, V, N, dtype=torch.float64)
    direct = torch.einsum("td,tvd->tv", text, normalize(torch.einsum("tvn,vnd->tvd", attention, values), dim=-1))
    mine = gated_score(attention, torch.einsum("td,vnd->tvn", text, values), gram(values))
    torch.testing.assert_close(mine, direct, atol=1e-9, rtol=1e-9)


@settings(deadline=None)
@given(V=sizes, F=sizes, P=sizes, seed=seeds)
def test_in_training_a_video_is_gated_by_its_own_caption(V: int, F: int, P: int, seed: int) -> None:
    """So that training's score of a right pair is evaluation's, and one vector a video meets every text."""
    torch.manual_seed(seed)
    text, videos = unit(V, 6), random_videos(V, F, P, 6)
    by_frame = tib_frame_vector(text, videos.frames, videos.temporal, videos.mask)
    by_patch = tib_patch_vector(text, videos.patches, videos.mask)
    evaluated = tib_frame(text, videos.frames, videos.temporal, videos.mask)
    torch.testing.assert_close((text * by_frame).sum(dim=-1), evaluated.diagonal(), atol=1e-9, rtol=1e-9)
    evaluated = tib_patch(text, videos.patches, videos.mask)
    torch.testing.assert_close((text * by_patch).sum(dim=-1), evaluated.diagonal(), atol=1e-9, rtol=1e-9)
    for vector in (by_frame, by_patch):
        torch.testing.assert_close(vector.norm(dim=-1), torch.ones(V, dtype=torch.float64))


def test_the_gate_carries_no_gradient() -> None:
    text, videos = unit(3, 6).requires_grad_(), random_videos(3, 4, 2, 6)
    frames, temporal, patches = (x.requires_grad_() for x in (videos.frames, videos.temporal, videos.patches))
    tib_frame_vector(text, frames, temporal, videos.mask).square().sum(dim=0).prod().backward()
    assert text.grad is None
    assert frames.grad is None
    assert temporal.grad[videos.mask].abs().min() > 0
    assert not temporal.grad[~videos.mask].any()
    tib_patch_vector(text, patches, videos.mask).square().sum(dim=0).prod().backward()
    assert text.grad is None
    assert not patches.grad[~videos.mask].any()


def test_softmax_leaves_out_what_is_masked_and_survives_an_empty_row() -> None:
    similarity = torch.tensor([[1.0, 2.0, float("nan")], [5.0, 6.0, 7.0]])
    weights = masked_softmax(similarity, torch.tensor([[True, True, False], [False, False, False]]), 1.0)
    torch.testing.assert_close(weights[0, :2], torch.tensor([1.0, 2.0]).softmax(dim=0))
    assert not weights[0, 2]
    assert not weights[1].any()


def test_the_coarse_score_is_an_inner_product_with_the_projected_text() -> None:
    text, video, W = unit(4, 6), unit(5, 6), torch.randn(6, 6, dtype=torch.float64)
    expected = torch.tensor([[t @ W @ v for v in video] for t in text])
    torch.testing.assert_close(video_score(text, video, W), expected)
    torch.testing.assert_close(project_text(text, W) @ video.T, expected)


def test_the_released_weights_of_the_rerank() -> None:
    weights = FusionWeights()
    assert weights.model_dump() == {
        "video": 0.5,
        "frame_weak": 0.8,
        "tib_frame": 0.2,
        "patch_weak": 0.2,
        "tib_patch": 0.0,
    }
    assert weights.active == ("video", "frame_weak", "tib_frame", "patch_weak")


@settings(deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=5, max_size=5).filter(any),
    seed=seeds,
)
def test_the_fused_score_is_the_weighted_sum_of_the_scores_that_have_a_weight(values: list[float], seed: int) -> None:
    torch.manual_seed(seed)
    weights = FusionWeights(**dict(zip(FusionWeights.model_fields, values, strict=True)))
    text, videos, W, U = unit(2, 6), random_videos(3, 4, 2, 6), unit(6, 6), torch.randn(4, 4, dtype=torch.float64)
    if not weights.needs_patches:
        videos = VideoFeatures(videos.video, videos.frames, videos.temporal, None, videos.mask)
    scores = score_each(text, videos, W, U, weights)
    assert set(scores) == {name for name in NAMES if getattr(weights, name) > 0}
    expected = sum(getattr(weights, name) * score for name, score in scores.items())
    torch.testing.assert_close(fuse(scores, weights), expected)


@pytest.mark.parametrize("name", ["patch_weak", "tib_patch"])
def test_a_patch_score_with_a_weight_needs_patches(name: str) -> None:
    whole = random_videos(2, 3, 2, 6)
    videos = VideoFeatures(whole.video, whole.frames, whole.temporal, None, whole.mask)
    weights = FusionWeights(**dict.fromkeys(NAMES, 0.0) | {"video": 1.0, name: 0.1})
    with pytest.raises(ValueError, match="no patch features"):
        score_each(unit(2, 6), videos, torch.eye(6).double(), None, weights)


@pytest.mark.parametrize(("patches", "expected"), [(49, 16.3), (196, 61.5)], ids=["B/32", "B/16"])
def test_the_cost_of_two_stages_is_the_published_one(patches: int, expected: float) -> None:
    """Thousand multiply-adds a pair at D = 512 and F = 12: 50 of 1,000 videos reranked, after one dot product each."""
    pool, k = 1000, 50
    coarse = FusionWeights(**dict.fromkeys(NAMES, 0.0) | {"video": 1.0})
    total = k * multiply_adds(FusionWeights(), 12, patches, 512) + pool * multiply_adds(coarse, 12, patches, 512)
    assert round(total / pool / 1000, 1) == expected


def test_a_gate_without_its_weak_score_pays_for_its_similarities() -> None:
    def cost(**weights: float) -> int:
        return multiply_adds(FusionWeights(**dict.fromkeys(NAMES, 0.0) | weights), 12, 49, 512)

    frames, patches = 12 * 512, 12 * 49 * 512
    assert cost(tib_frame=1) + cost(frame_weak=1) == cost(tib_frame=1, frame_weak=1) + frames
    assert cost(tib_patch=1) + cost(patch_weak=1) == cost(tib_patch=1, patch_weak=1) + patches
    assert cost(video=1) == 512
