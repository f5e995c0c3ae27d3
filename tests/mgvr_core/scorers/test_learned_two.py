"""CrossTVR, TokenBinder, RAP and VEDJE: what they are before training, and that training them helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.errors import MgvrError
from mgvr_core.scorers import joint
from mgvr_core.scorers.blocks import sinusoids
from mgvr_core.scorers.catalogue import find
from mgvr_core.scorers.scorer import Scorer, Setting, Sizes, Texts, take_videos
from mgvr_core.scoring.features import VideoFeatures

Pairs = Callable[..., tuple[Texts, VideoFeatures]]
Settings = Callable[..., Setting]
Parts = Callable[[Scorer, Texts, VideoFeatures, Tensor], Tensor]

JOINT = ("cross_tvr", "vedje")
PRIOR = (*JOINT, "token_binder")
every_scorer = pytest.mark.parametrize("name", [*PRIOR, "rap"])
every_joint = pytest.mark.parametrize("name", JOINT)
every_with_prior = pytest.mark.parametrize("name", PRIOR)


def moved(name: str, setting: Setting) -> Scorer:
    """The scorer with weights that are no longer those it starts with."""
    scorer = find(name)(setting)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weights in scorer.parameters():
            weights.add_(0.2 * torch.randn(weights.shape, generator=generator))
    return scorer


def priors(scorer: Scorer, texts: Texts, videos: VideoFeatures) -> Tensor:
    return texts.vector @ scorer.setting.projection @ videos.video.T


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@every_with_prior
def test_before_training_a_score_is_the_prior(name: str, pairs: Pairs, setting: Settings, parts: Parts) -> None:
    scorer, (texts, videos) = find(name)(setting()), pairs(0)
    prior = priors(scorer, texts, videos)
    close(parts(scorer, texts, videos, prior)[0], prior)


def test_before_training_rap_is_mean_pool(pairs: Pairs, setting: Settings) -> None:
    texts, videos = pairs(0)
    close(find("rap")(setting()).score(texts, videos), find("mean_pool")(setting()).score(texts, videos))


def test_a_video_of_more_frames_than_rap_was_made_for_is_refused(pairs: Pairs, setting: Settings, sizes: Sizes) -> None:
    texts, videos = pairs(0)
    with pytest.raises(MgvrError, match="more than the 3 frames that this rap scorer was made for"):
        find("rap")(setting(sizes=replace(sizes, frames=3))).score(texts, videos)


def learnable(seed: int, number: int) -> tuple[Texts, VideoFeatures, Setting]:
    """Pairs about a subject each, which the prior hardly knows.

    One word in two says it, and one frame in two shows it, in half of its patches; t^ and v^ are mostly noise.
    """
    F, P, D, L = 4, 2, 32, 4
    generator = torch.Generator().manual_seed(seed)

    def near(base: Tensor, spread: float) -> Tensor:
        return normalize(base + spread * torch.randn(base.shape, generator=generator) / D**0.5, dim=-1)

    subject = near(torch.zeros(number, D), 1.0)
    words, frames = near(torch.zeros(number, L, D), 1.0), near(torch.zeros(number, F, D), 1.0)
    words[:, ::2] = near(subject.unsqueeze(1).repeat(1, L // 2, 1), 0.3)
    frames[:, ::2] = near(subject.unsqueeze(1).repeat(1, F // 2, 1), 0.3)
    patches = near(frames.unsqueeze(2).repeat(1, 1, P, 1), 0.3)
    patches[:, :, 1] = near(torch.zeros(number, F, D), 1.0)
    texts = Texts(near(subject, 1.5), words, torch.ones(number, L, dtype=torch.bool))
    videos = VideoFeatures(
        near(subject, 1.5), near(frames, 0.8), near(frames, 0.2), patches, torch.ones(number, F, dtype=torch.bool)
    )
    return texts, videos, Setting(Sizes(F, P, D, L), torch.eye(D), scale=10.0)


def recall_at_1(parts: Parts, scorer: Scorer, texts: Texts, videos: VideoFeatures) -> float:
    best = parts(scorer, texts, videos, priors(scorer, texts, videos))[0].argmax(dim=1)
    return float((best == torch.arange(len(texts))).float().mean())


@pytest.mark.parametrize(("name", "steps"), [("cross_tvr", 30), ("vedje", 30), ("token_binder", 30), ("rap", 120)])
def test_training_lowers_the_loss_and_raises_recall(name: str, steps: int, parts: Parts) -> None:
    """Shown new pairs in every step, and asked for others."""
    texts, videos, setting = learnable(0, 32)
    scorer = find(name)(setting)
    before = recall_at_1(parts, scorer, texts, videos)
    optimiser = torch.optim.Adam(scorer.parameters(), lr=3e-3)
    losses = []
    for step in range(1, steps + 1):
        drawn, shown, _ = learnable(step, 32)
        loss = scorer.loss(drawn, shown, slice(None))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert recall_at_1(parts, scorer, texts, videos) > before + 0.1


@every_scorer
def test_a_gradient_reaches_every_weight(name: str, pairs: Pairs, setting: Settings) -> None:
    scorer, (texts, videos) = moved(name, setting()), pairs(1, T=6, V=6)
    torch.autograd.backward(scorer.loss(texts, videos, slice(None)))
    for key, weights in scorer.named_parameters():
        assert weights.grad is not None, key
        assert weights.grad.isfinite().all(), key
        assert weights.grad.any(), key


@every_scorer
def test_shares_of_a_loss_add_up_to_the_whole(name: str, pairs: Pairs, setting: Settings) -> None:
    scorer, (texts, videos) = moved(name, setting()), pairs(2, T=6, V=6)
    whole = scorer.loss(texts, videos, slice(None))
    close(scorer.loss(texts, videos, slice(0, 2)) + scorer.loss(texts, videos, slice(2, 6)), whole)


@every_scorer
def test_training_mode_changes_nothing(name: str, pairs: Pairs, setting: Settings, parts: Parts) -> None:
    scorer, (texts, videos) = moved(name, setting()), pairs(3)
    prior = priors(scorer, texts, videos)
    assert torch.equal(parts(scorer.train(), texts, videos, prior), parts(scorer.eval(), texts, videos, prior))


@every_scorer
def test_weights_are_all_that_a_trained_scorer_is(name: str, pairs: Pairs, setting: Settings, parts: Parts) -> None:
    trained, (texts, videos) = moved(name, setting()), pairs(3)
    again = find(name)(replace(setting(), seed=7))
    again.load_state_dict(trained.state_dict())
    prior = priors(trained, texts, videos)
    assert torch.equal(parts(again, texts, videos, prior), parts(trained, texts, videos, prior))


@every_joint
def test_blocks_give_the_scores_the_loss_and_the_gradients_of_one_call(
    name: str, pairs: Pairs, setting: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, videos = pairs(4, T=4, V=4)

    def found() -> list[Tensor]:
        scorer = moved(name, setting())
        loss, scores = scorer.loss(texts, videos, slice(None)), scorer.score(texts, videos)
        gradients = torch.autograd.grad(loss + scores.square().sum(), list(scorer.parameters()))
        return [loss.detach(), scores.detach(), *gradients]

    expected = found()
    scorer = find(name)(setting())
    assert isinstance(scorer, joint.JointEncoder)
    numbers = scorer.pair_numbers(6, videos)
    for pairs_at_once in (1, 7):
        monkeypatch.setattr(joint, "_AT_ONCE", pairs_at_once * numbers)
        for mine, theirs in zip(found(), expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_lists_in_blocks_have_the_scores_and_the_gradients_of_one_call(
    pairs: Pairs, setting: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, videos = pairs(4, T=5, V=5)

    def found() -> list[Tensor]:
        scorer = moved("token_binder", setting())
        loss = scorer.loss(texts, videos, slice(None))
        return [loss.detach(), *torch.autograd.grad(loss, list(scorer.parameters()))]

    expected = found()
    for lists_at_once in (1, 2):
        monkeypatch.setattr(joint, "_AT_ONCE", lists_at_once * 5 * 6 * 16)
        for mine, theirs in zip(found(), expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@every_joint
def test_the_loss_scores_pairs_as_score_does(name: str, pairs: Pairs, setting: Settings) -> None:
    """Where a batch is no larger than the hardest pairs, it is the loss over all of them: written out."""
    scorer, (texts, videos) = moved(name, setting()), pairs(5, T=4, V=4)
    logits = scorer.scale * scorer.score(texts, videos)
    across, down = logits.log_softmax(dim=1).diagonal(), logits.log_softmax(dim=0).diagonal()
    close(scorer.loss(texts, videos, slice(None)), -(across.mean() + down.mean()) / 2)


@given(B=st.integers(1, 9), negatives=st.integers(0, 9), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_a_row_meets_its_own_column_and_the_hardest_others(B: int, negatives: int, seed: int) -> None:
    prior = torch.randn(B, B, generator=torch.Generator().manual_seed(seed))
    own, met = joint.own_and_hardest(prior, slice(None), negatives)
    assert met.shape == own.shape == (B, min(B, negatives + 1))
    for row in range(B):
        others = sorted((column for column in range(B) if column != row), key=lambda column: -prior[row, column])
        assert met[row].tolist() == [row, *others[:negatives]]
        assert set(own[row].tolist()) == {row}


def test_a_candidate_is_compared_with_its_rivals(pairs: Pairs, setting: Settings, parts: Parts) -> None:
    scorer, (texts, videos) = moved("token_binder", setting()), pairs(6)
    prior = priors(scorer, texts, videos)
    among_all, among_few = (parts(scorer, texts, take_videos(videos, slice(n)), prior[:, :n])[0, :, :3] for n in (7, 3))
    assert (among_all - among_few).abs().max() > 1e-3


def test_frames_are_placed_by_their_order_alone() -> None:
    whole = sinusoids(torch.ones(1, 3, dtype=torch.bool), 8)
    spread = sinusoids(torch.tensor([[False, True, True, False, True]]), 8)
    assert torch.equal(spread[0, [1, 2, 4]], whole[0])
    assert len({tuple(place.tolist()) for place in whole[0]}) == 3


@every_scorer
def test_padding_between_frames_is_none(name: str, pairs: Pairs, setting: Settings, parts: Parts) -> None:
    """And a video without any frame has a score, of whatever use."""
    scorer, (texts, videos) = moved(name, setting()), pairs(7)
    spread = torch.tensor([0, 2, 3, 6])
    wide = {
        key: (each := getattr(videos, key)).new_zeros(len(videos), 7, *each.shape[2:]).index_copy_(1, spread, each)
        for key in ("frames", "temporal", "patches", "mask")
    }
    prior = priors(scorer, texts, videos)
    close(parts(scorer, texts, replace(videos, **wide), prior), parts(scorer, texts, videos, prior))
    empty = {key: torch.zeros_like(getattr(videos, key)) for key in ("frames", "temporal", "patches", "mask")}
    assert parts(scorer, texts, replace(videos, **empty), prior).isfinite().all()


@every_with_prior
def test_what_is_read_and_not_there_is_named(name: str, pairs: Pairs, setting: Settings, parts: Parts) -> None:
    scorer, (texts, videos) = moved(name, setting()), pairs(8)
    prior = priors(scorer, texts, videos)
    with pytest.raises(ValueError, match="without them"):
        parts(scorer, replace(texts, words=None), videos, prior)
    if "patches" in scorer.reads:
        with pytest.raises(ValueError, match="without them"):
            parts(scorer, texts, replace(videos, patches=None), prior)
