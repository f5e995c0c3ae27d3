"""X-CLIP, DRL, X-Pool, UCoFiA and RIVRL: that training helps them, and that weights are all there is to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.scorers.catalogue import find
from mgvr_core.scorers.scorer import Scorer, Setting, Sizes, Texts, take_videos
from mgvr_core.scoring.features import VideoFeatures

Pairs = Callable[..., tuple[Texts, VideoFeatures]]
Settings = Callable[..., Setting]

LEARNED = ("x_clip", "drl", "x_pool", "ucofia", "rivrl")
every_scorer = pytest.mark.parametrize("name", LEARNED)


def learnable(seed: int, pairs: int, apart: float = 1.0) -> tuple[Texts, VideoFeatures, Setting]:
    """Pairs about a subject each, which videos have turned in some of the dimensions.

    Half of the words and of the frames are about another pair's, and marked as such by a direction of their own.
    apart: how far from their subject words and frames are, as a part of that.
    """
    F, P, D, L = 4, 4, 16, 4
    generator = torch.Generator().manual_seed(seed)

    def near(base: Tensor, spread: float) -> Tensor:
        return normalize(base + spread * torch.randn(base.shape, generator=generator) / D**0.5, dim=-1)

    turn = torch.eye(D)
    turn[:6, :6] = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    subject = near(torch.zeros(pairs, D), 1.0)
    marks = near(torch.zeros(2, D), 1.0)
    words = subject.unsqueeze(1).repeat(1, L, 1)
    frames = (subject @ turn).unsqueeze(1).repeat(1, F, 1)
    for tokens, mark, other in ((words, marks[0], 1), (frames, marks[1], 2)):
        half = tokens[:, 1::2]
        tokens[:, 1::2] = half + apart * (half.roll(other, dims=0) - half + mark)
    words, frames = near(words, 0.4 * apart), near(frames, 0.4 * apart)
    patches = near(frames.unsqueeze(2).repeat(1, 1, P, 1), 0.4 * apart)
    texts = Texts(near(subject, 0.4), words, torch.ones(pairs, L, dtype=torch.bool))
    videos = VideoFeatures(
        near(subject @ turn, 0.4), frames, near(frames, 0.2), patches, torch.ones(pairs, F, dtype=torch.bool)
    )
    return texts, videos, Setting(Sizes(F, P, D, L), torch.eye(D), scale=20.0)


def recall_at_1(scorer: Scorer, texts: Texts, videos: VideoFeatures) -> float:
    with torch.no_grad():
        best = scorer.combine(scorer.parts(texts, videos)).argmax(dim=1)
    return float((best == torch.arange(len(texts))).float().mean())


@every_scorer
def test_training_lowers_the_loss_and_finds_more_among_unseen_pairs(name: str) -> None:
    texts, videos, setting = learnable(seed=1, pairs=72)
    seen, unseen = slice(0, 40), slice(40, 72)
    of_training = texts.take(seen), take_videos(videos, seen)
    of_test = texts.take(unseen), take_videos(videos, unseen)
    scorer = find(name)(setting)
    started = {key: weights.detach().clone() for key, weights in scorer.named_parameters()}
    found, losses = recall_at_1(scorer, *of_test), []
    optimiser = torch.optim.Adam(scorer.parameters(), lr=0.02)
    for _ in range(12):
        optimiser.zero_grad()
        loss = scorer.loss(*of_training, slice(None))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert recall_at_1(scorer, *of_test) > found + 0.05
    for key, weights in scorer.named_parameters():
        assert not torch.equal(weights, started[key]), f"{key} is not trained"


@every_scorer
def test_the_shares_of_a_loss_add_up_to_it(name: str) -> None:
    """Else a step would depend on how many workers make it. And every weight has its part in the loss."""
    texts, videos, setting = learnable(seed=2, pairs=6, apart=0.05)
    scorer = trained_a_little(find(name)(setting)).double()
    texts = Texts(texts.vector.double(), texts.words.double(), texts.word_mask)
    videos = VideoFeatures(
        *(getattr(videos, key).double() for key in ("video", "frames", "temporal", "patches")), videos.mask
    )
    whole = scorer.loss(texts, videos, slice(None))
    whole.backward()
    gradients = {key: weights.grad.clone() for key, weights in scorer.named_parameters()}
    scorer.zero_grad()
    shares = [scorer.loss(texts, videos, rows) for rows in (slice(0, 1), slice(1, 6))]
    torch.stack(shares).sum().backward()
    torch.testing.assert_close(sum(shares), whole)
    for key, weights in scorer.named_parameters():
        assert gradients[key].abs().max() > 1e-7, f"{key} has no part in the loss"
        torch.testing.assert_close(weights.grad, gradients[key], rtol=1e-6, atol=1e-10)


@every_scorer
def test_weights_that_are_saved_score_as_before(name: str, pairs: Pairs, setting: Settings) -> None:
    (texts, videos), scorer, again = pairs(8), trained_a_little(find(name)(setting())), find(name)(setting(seed=1))
    assert scorer.learned
    again.setting = scorer.setting
    expected = scorer.parts(texts, videos)
    assert not torch.allclose(again.parts(texts, videos), expected)
    again.load_state_dict(scorer.state_dict())
    assert torch.equal(again.parts(texts, videos), expected)


def trained_a_little(scorer: Scorer) -> Scorer:
    """As after some steps: what starts as zero passes no gradient on."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weights in scorer.parameters():
            weights += 0.02 * torch.randn(weights.shape, generator=generator)
    return scorer
