"""X-CLIP, DRL, X-Pool, UCoFiA and RIVRL: what they are before training, and that training them helps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.scorers.aosm import fitted
from mgvr_core.scorers.catalogue import find
from mgvr_core.scorers.rivrl import soft_jaccard
from mgvr_core.scorers.scorer import Scorer, Setting, Sizes, Texts, take_videos
from mgvr_core.scorers.sinkhorn import sinkhorn_knopp, video_offsets
from mgvr_core.scoring.features import VideoFeatures

Pairs = Callable[..., tuple[Texts, VideoFeatures]]
Settings = Callable[..., Setting]
Floats = NDArray[np.float64]

LEARNED = ("x_clip", "drl", "x_pool", "ucofia", "rivrl")
every_scorer = pytest.mark.parametrize("name", LEARNED)


def unit(x: Floats) -> Floats:
    return x / np.linalg.norm(x)


def softmax(x: Floats) -> Floats:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def attended(x: Floats) -> float:
    """AOSM with the identity."""
    return float(softmax(x / 0.01) @ x)


def sharpened(x: Floats) -> float:
    """UCoFiA's, with the identity."""
    return float(softmax(softmax(x / 0.01) / 0.01) @ x)


def both_ways(x: Floats, pool: Callable[[Floats], float]) -> float:
    """Over words then tokens, and over tokens then words: x (L, N)."""
    tokens = pool(np.array([pool(column) for column in x.T]))
    return (tokens + pool(np.array([pool(row) for row in x]))) / 2


def layer_norm(x: Floats) -> Floats:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def jaccard(a: Floats, b: Floats) -> float:
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


# Of one pair before training: text t (D,), words w (L, D), video v (D,), frames f and g (F, D), patches p (F, P, D).
def x_clip(t: Floats, w: Floats, v: Floats, f: Floats, g: Floats, p: Floats) -> list[float]:
    return [(t @ v + attended(w @ v) + attended(f @ t) + both_ways(w @ f.T, attended)) / 4]


def drl(t: Floats, w: Floats, v: Floats, f: Floats, g: Floats, p: Floats) -> list[float]:
    x = w @ g.T
    return [(x.max(axis=1).mean() + x.max(axis=0).mean()) / 2]


def x_pool(t: Floats, w: Floats, v: Floats, f: Floats, g: Floats, p: Floats) -> list[float]:
    text, frames = layer_norm(t), np.array([layer_norm(frame) for frame in f])
    y = layer_norm(softmax(frames @ text / np.sqrt(len(t))) @ frames)
    return [t @ unit(layer_norm(y + y))]


def ucofia_parts(t: Floats, w: Floats, v: Floats, f: Floats, g: Floats, p: Floats) -> list[float]:
    tokens = [[frame, *sorted(near, key=lambda patch: -(patch @ v))[:3]] for frame, near in zip(f, p, strict=True)]
    return [t @ v, sharpened(f @ t), both_ways(w @ np.concatenate(tokens).T, sharpened)]


def rivrl_parts(t: Floats, w: Floats, v: Floats, f: Floats, g: Floats, p: Floats) -> list[float]:
    levels = []
    for n in (1, 2, 4):
        segments = [f[j : j + n].mean(axis=0) for j in range(len(f) - n + 1)]
        if segments:
            attention = softmax(np.array([segment @ v for segment in segments]) * np.sqrt(len(v)))
            levels.append(unit(attention @ segments + np.mean(segments, axis=0)))
        else:
            levels.append(np.zeros_like(v))
    close = np.mean(levels, axis=0)
    drawn = torch.randn(512, len(v), generator=torch.Generator().manual_seed(0)).double().numpy()
    concepts = [1 / (1 + np.exp(-drawn @ x)) for x in (t, v, close)]
    return [t @ v, t @ unit(close), jaccard(concepts[0], concepts[1]), jaccard(concepts[0], concepts[2])]


BEFORE = {"x_clip": x_clip, "drl": drl, "x_pool": x_pool, "ucofia": ucofia_parts, "rivrl": rivrl_parts}


@every_scorer
def test_before_training_a_score_is_the_one_of_its_formula(name: str, pairs: Pairs, setting: Settings) -> None:
    texts, videos = pairs(4)
    found = find(name)(setting()).parts(texts, videos).detach()
    expected = np.empty(found.shape)
    for t in range(len(texts)):
        there = texts.word_mask[t]
        for v in range(len(videos)):
            shown = videos.mask[v]
            of_pair = (
                texts.vector[t], texts.words[t, there], videos.video[v],
                videos.frames[v, shown], videos.temporal[v, shown], videos.patches[v, shown],
            )  # fmt: skip
            expected[:, t, v] = BEFORE[name](*(each.double().numpy() for each in of_pair))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


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


@given(seed=st.integers(0, 1000), shape=st.tuples(st.integers(1, 7), st.integers(1, 7)), spread=st.floats(0.1, 30.0))
@settings(max_examples=40, deadline=None)
def test_sinkhorn_gives_every_video_the_same_share_of_the_bank(
    seed: int, shape: tuple[int, int], spread: float
) -> None:
    """And every caption, the more often rows and columns are scaled."""
    logits = spread * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows, columns = sinkhorn_knopp(logits)
    scaled = (logits + rows.unsqueeze(1) + columns).exp()
    torch.testing.assert_close(scaled.sum(dim=0), torch.ones(shape[1], dtype=torch.float64))

    def unevenness(iterations: int) -> float:
        rows, columns = sinkhorn_knopp(logits, iterations)
        sums = (logits + rows.unsqueeze(1) + columns).exp().sum(dim=1)
        return float(sums.max() / sums.min())

    assert 1 - 1e-9 <= unevenness(8) <= unevenness(4) * (1 + 1e-9)


@given(shift=st.floats(-0.5, 0.5))
@settings(max_examples=20, deadline=None)
def test_what_a_video_has_more_of_with_all_captions_is_taken_from_it(shift: float) -> None:
    bank = 0.2 * torch.randn(3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hub = bank.clone()
    hub[..., 2] += shift
    before, after = (each + video_offsets(each, scale=100.0).unsqueeze(1) for each in (bank, hub))
    torch.testing.assert_close(after - after.mean(dim=-1, keepdim=True), before - before.mean(dim=-1, keepdim=True))
    torch.testing.assert_close(video_offsets(hub, scale=100.0).sum(dim=-1), torch.zeros(3, dtype=torch.float64))


def test_ucofia_scores_are_the_mean_of_what_is_normalised(setting: Settings) -> None:
    scorer, generator = find("ucofia")(setting()), torch.Generator().manual_seed(1)
    parts, bank = torch.randn(3, 4, 5, generator=generator), torch.randn(3, 6, 5, generator=generator)
    columns = torch.tensor([[4, 0], [1, 2], [3, 3], [0, 4]])
    torch.testing.assert_close(scorer.combine(parts[..., :2], columns), parts[..., :2].mean(dim=0))
    offsets = video_offsets(bank, scorer.scale)
    found = scorer.combine(parts[..., :2], columns, bank)
    for t in range(4):
        for n in range(2):
            torch.testing.assert_close(found[t, n], (parts[:, t, n] + offsets[:, columns[t, n]]).mean())


def test_ucofia_takes_what_patches_there_are(pairs: Pairs, setting: Settings, sizes: Sizes) -> None:
    few = Sizes(sizes.frames, 2, sizes.dim, sizes.words)
    assert find("ucofia")(setting(sizes=few)).parts(*pairs(2, sizes=few)).isfinite().all()
    assert find("ucofia").multiply_adds(few) < find("ucofia").multiply_adds(sizes)


def test_rivrl_weighs_what_it_has_brought_to_one_range(setting: Settings) -> None:
    scorer = find("rivrl")(setting())
    parts = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(2))
    found = scorer.combine(parts)
    # Whatever the unit and the zero of a similarity are, it counts the same.
    torch.testing.assert_close(scorer.combine(parts * torch.tensor([3.0, 0.1, 1.0, 7.0])[:, None, None] - 2), found)
    expected = np.zeros((3, 5))
    for weight, part in zip((0.3, 0.3, 0.2, 0.2), parts.numpy(), strict=True):
        expected += weight * (part - part.min()) / (part.max() - part.min())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    parts[1] = 0.5
    assert scorer.combine(parts).isfinite().all(), "similarities that are all the same say nothing"


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_soft_jaccard_is_what_is_shared_of_what_there_is(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    texts, videos = torch.rand(3, 9, generator=generator), torch.rand(4, 9, generator=generator)
    found = soft_jaccard(texts, videos)
    for t in range(3):
        for v in range(4):
            assert float(found[t, v]) == pytest.approx(jaccard(texts[t].numpy(), videos[v].numpy()), abs=1e-5)
    torch.testing.assert_close(soft_jaccard(texts, texts).diagonal(), torch.ones(3))


def test_a_matrix_for_more_or_fewer_tokens() -> None:
    mixing = torch.arange(9.0).reshape(3, 3)
    assert torch.equal(fitted(mixing, 2), torch.tensor([[0.0, 1.0], [3.0, 4.0]]))
    assert torch.equal(fitted(mixing, 5), torch.block_diag(mixing, torch.eye(2)))


def test_rivrl_is_trained_by_its_four_similarities_one_by_one(pairs: Pairs, setting: Settings) -> None:
    scorer, (texts, videos) = find("rivrl")(setting()), pairs(9, T=5, V=5)
    expected = 0.0
    for part in scorer.parts(texts, videos).detach().double().numpy() * scorer.scale:
        for logits in (part, part.T):
            expected -= sum(np.log(softmax(logits[row])[row]) for row in range(5)) / 5 / 2
    assert scorer.loss(texts, videos, slice(None)).item() == pytest.approx(expected, rel=1e-4)
