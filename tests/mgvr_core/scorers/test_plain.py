"""The scorers without weights of their own against their formulas, written out pair by pair over what is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mgvr_core.scorers import attention
from mgvr_core.scorers.catalogue import find
from mgvr_core.scorers.scorer import Setting, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures

Pairs = Callable[..., tuple[Texts, VideoFeatures]]
Settings = Callable[..., Setting]
Floats = NDArray[np.float64]


def unit(x: Floats) -> Floats:
    return x / np.linalg.norm(x)


def softmax(x: Floats) -> Floats:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


# Of one pair: text t (D,), words w (L, D), video v (D,), frames f and temporal frames g (F, D), patches p (N, D), W, U.
# A formula names what it takes, and sees nothing that is padding.
FORMULAS: dict[str, Callable[..., float]] = {
    "coarse": lambda t, v, W: t @ W @ v,
    "mean_pool": lambda t, f: t @ unit(sum(f)),
    "max_frame": lambda t, f: max(t @ x for x in f),
    "top_frames": lambda t, f: np.mean(sorted(t @ x for x in f)[-3:]),
    "query_scoring": lambda t, f: t @ unit(softmax(f @ t / 0.1) @ f),
    "tib_frame": lambda t, f, g: t @ unit(softmax(f @ t / 0.1) @ g),
    "tib_patch": lambda t, p: t @ unit(softmax(p @ t / 0.01) @ p),
    "frame_weak": lambda t, f, U: softmax(f @ t / 0.01) @ U @ (f @ t),
    "patch_weak": lambda t, p: softmax(p @ t / 0.01) @ (p @ t),
    "ts2_net": lambda t, g: softmax(4 * unit(g @ t)) @ (g @ t),
    "token_interaction": lambda w, g: (
        np.mean([max(x @ y for y in g) for x in w]) / 2 + np.mean([max(x @ y for x in w) for y in g]) / 2
    ),
    "max_sim": lambda w, f, g: np.mean([max(x @ y for y in f) + max(x @ y for y in g) for x in w]),
}

every_formula = pytest.mark.parametrize("name", FORMULAS)


def plain(name: str, texts: Texts, videos: VideoFeatures, setting: Setting) -> Floats:
    formula = FORMULAS[name]
    asked = formula.__code__.co_varnames[: formula.__code__.co_argcount]
    scores = np.empty((len(texts), len(videos)))
    for t in range(len(texts)):
        for v in range(len(videos)):
            there = videos.mask[v]
            values = {
                "t": texts.vector[t],
                "w": texts.words[t][texts.word_mask[t]],
                "v": videos.video[v],
                "f": videos.frames[v][there],
                "g": videos.temporal[v][there],
                "p": videos.patches[v][there].flatten(0, 1),
                "W": setting.projection,
                "U": setting.mixing[there][:, there],
            }
            scores[t, v] = formula(*(values[key].double().numpy() for key in asked))
    return scores


some = st.integers(1, 5)


@every_formula
@settings(deadline=None, max_examples=15)
@given(T=some, V=some, F=some, P=some, L=some, D=st.integers(2, 9), seed=st.integers(0, 2**31))
def test_a_score_is_its_formula_over_what_is_there(
    name: str, pairs: Pairs, setting: Settings, T: int, V: int, F: int, P: int, L: int, D: int, seed: int
) -> None:
    sizes = Sizes(F, P, D, L)
    texts, videos = pairs(seed, T, V, sizes)
    learned = setting(seed, sizes)
    scores = find(name)(learned).score(texts, videos)
    np.testing.assert_allclose(scores.numpy(), plain(name, texts, videos, learned), atol=1e-5)


@every_formula
def test_videos_can_be_scored_a_block_at_a_time(
    name: str, pairs: Pairs, setting: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are where all pairs' similarities would not fit in memory."""
    (texts, videos), scorer = pairs(0), find(name)(setting())
    at_once = scorer.score(texts, videos)
    for limit in (1, 50, 300):  # numbers of five texts: blocks of one video, and of two or three with a rest
        monkeypatch.setattr(attention, "MOST_NUMBERS", limit)
        torch.testing.assert_close(scorer.score(texts, videos), at_once, atol=1e-6, rtol=0)


@every_formula
def test_a_scorer_without_weights_has_none_to_train(name: str, setting: Settings) -> None:
    scorer = find(name)(setting())
    assert not scorer.learned
    assert not scorer.state_dict()


def test_without_u_the_weak_frame_score_takes_the_identity(pairs: Pairs, setting: Settings) -> None:
    texts, videos = pairs(0)
    learned = setting()
    none, identity = (find("frame_weak")(replace(learned, mixing=U)) for U in (None, torch.eye(4)))
    torch.testing.assert_close(none.score(texts, videos), identity.score(texts, videos))


def test_places_that_no_text_uses_cost_nothing(pairs: Pairs) -> None:
    """A tokenizer pads all texts to one length, several times what most of them have."""
    texts, _ = pairs(0)
    some = texts.take(texts.word_mask.sum(dim=1) < 4)
    padded = Texts(
        some.vector, some.words.repeat(1, 3, 1), torch.cat([some.word_mask, torch.zeros(len(some), 10).bool()], 1)
    )
    longest = int(some.word_mask.sum(dim=1).max())
    words, there = attention.words_of(padded)
    assert torch.equal(words, some.words[:, :longest])
    assert torch.equal(there, some.word_mask[:, :longest])


@pytest.mark.parametrize("name", ["token_interaction", "max_sim"])
def test_texts_without_words_are_refused_where_words_are_read(name: str, pairs: Pairs, setting: Settings) -> None:
    texts, videos = pairs(0)
    with pytest.raises(ValueError, match="reads words"):
        find(name)(setting()).score(Texts(texts.vector, None, None), videos)


@pytest.mark.parametrize("name", ["patch_weak", "tib_patch"])
def test_videos_without_patches_are_refused_where_patches_are_read(name: str, pairs: Pairs, setting: Settings) -> None:
    texts, videos = pairs(0)
    with pytest.raises(ValueError, match="reads patches"):
        find(name)(setting()).score(texts, replace(videos, patches=None))
