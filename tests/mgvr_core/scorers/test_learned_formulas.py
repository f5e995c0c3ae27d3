"""X-CLIP, DRL, X-Pool, UCoFiA and RIVRL: their scores by their formulas, and what those are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mgvr_core.evaluation import hubness
from mgvr_core.scorers.aosm import fitted
from mgvr_core.scorers.catalogue import find
from mgvr_core.scorers.rivrl import soft_jaccard
from mgvr_core.scorers.scorer import Scorer, Setting, Sizes, Texts
from mgvr_core.scorers.sinkhorn import sinkhorn_knopp, video_offsets
from mgvr_core.scoring.features import VideoFeatures

Pairs = Callable[..., tuple[Texts, VideoFeatures]]
Settings = Callable[..., Setting]
Floats = NDArray[np.float64]
Weights = Mapping[str, Floats]

LEARNED = ("x_clip", "drl", "x_pool", "ucofia", "rivrl")
every_scorer = pytest.mark.parametrize("name", LEARNED)


def unit(x: Floats) -> Floats:
    return x / np.linalg.norm(x)


def softmax(x: Floats) -> Floats:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def attended(x: Floats, mixing: Floats) -> float:
    """AOSM."""
    return float(softmax(x / 0.01) @ mixing[: len(x), : len(x)] @ x)


def sharpened(x: Floats, mixing: Floats | None = None) -> float:
    """UCoFiA's."""
    attention = softmax(x / 0.01)
    if mixing is not None:
        attention = attention @ mixing[: len(x), : len(x)]
    return float(softmax(attention / 0.01) @ x)


def layer_norm(x: Floats, weight: Floats, bias: Floats) -> Floats:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def jaccard(a: Floats, b: Floats) -> float:
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


# Of one pair, padding left out: text t (D,), words w (L, D), video v (D,), frames f and temporal ones g (F, D), patches
# p (F, P, D); and the weights m by their names.
def x_clip(t: Floats, w: Floats, v: Floats, f: Floats, g: Floats, p: Floats, m: Weights) -> list[float]:
    x = w @ m["word"] @ f.T
    of_frames = np.array([attended(column, m["words_first"]) for column in x.T])
    of_words = np.array([attended(row, m["frames_first"]) for row in x])
    word_frame = attended(of_frames, m["frames_second"]) + attended(of_words, m["words_second"])
    by_word, by_frame = attended(w @ v, m["video_word"]), attended(f @ t, m["sentence_frame"])
    return [(t @ m["sentence"] @ v + by_word + by_frame + word_frame / 2) / 4]


def drl(t: Floats, w: Floats, v: Floats, f: Floats, g: Floats, p: Floats, m: Weights) -> list[float]:
    def weigh(side: str, tokens: Floats) -> Floats:
        hidden = [m[f"{side}.0.weight"] @ x * np.sqrt(len(t)) + m[f"{side}.0.bias"] for x in tokens]
        return softmax(np.array([(m[f"{side}.2.weight"] @ np.maximum(h, 0.0)).item() for h in hidden]))

    x = w @ g.T
    return [(weigh("of_word", w) @ x.max(axis=1) + weigh("of_frame", g) @ x.max(axis=0)) / 2]


def x_pool(t: Floats, w: Floats, v: Floats, f: Floats, g: Floats, p: Floats, m: Weights) -> list[float]:
    def norm(n: int, x: Floats) -> Floats:
        return layer_norm(x, m[f"norm{n}.weight"], m[f"norm{n}.bias"])

    def layer(name: str, x: Floats) -> Floats:
        return m[f"{name}.weight"] @ x + m[f"{name}.bias"]

    query, frames = layer("query", norm(1, t)), [norm(1, frame) for frame in f]
    attention = softmax(np.array([query @ (m["key"] @ frame) for frame in frames]) / np.sqrt(len(t)))
    y = norm(2, layer("out", attention @ np.array([layer("value", frame) for frame in frames])))
    return [t @ unit(norm(3, y + layer("linear", y)))]


def ucofia_parts(t: Floats, w: Floats, v: Floats, f: Floats, g: Floats, p: Floats, m: Weights) -> list[float]:
    tokens = [[frame, *sorted(near, key=lambda patch: -(patch @ v))[:3]] for frame, near in zip(f, p, strict=True)]
    x = w @ m["word"] @ np.concatenate(tokens).T
    of_tokens, of_words = (np.array([sharpened(row) for row in side]) for side in (x.T, x))
    patch_word = (sharpened(of_tokens) + sharpened(of_words, m["words_second"])) / 2
    return [(m["sentence"] @ t) @ (m["video"] @ v), sharpened(f @ t, m["sentence_frame"]), patch_word]


def rivrl_parts(t: Floats, w: Floats, v: Floats, f: Floats, g: Floats, p: Floats, m: Weights) -> list[float]:
    levels = []
    for kernel in (np.eye(len(v))[..., None], m["segments.0"], m["segments.1"]):  # (D, D, n)
        n = kernel.shape[2]
        h = [sum(kernel[:, :, i] @ f[j + i] for i in range(n)) for j in range(len(f) - n + 1)]
        if not h:
            levels.append(np.zeros_like(v))
            continue
        attention = softmax(np.array([(m["query"] @ v) @ (m["key"] @ x) for x in h]) * np.sqrt(len(v)))
        levels.append(unit(sum(a * m["value"] @ x for a, x in zip(attention, h, strict=True)) + np.mean(h, axis=0)))
    text, read = np.concatenate([t, unit(w.mean(axis=0))]), (v, np.concatenate(levels))

    def mapped(maps: str) -> tuple[Floats, Floats]:
        of_text = m[f"{maps}.text"] @ text + m[f"{maps}.text_bias"]
        return of_text, m[f"{maps}.video"] @ read[int(maps[-1])] + m[f"{maps}.video_bias"]

    latent = [mapped(f"latent.{side}") for side in (0, 1)]
    concept = [mapped(f"concept.{side}") for side in (0, 1)]
    return [
        *(unit(a) @ unit(b) for a, b in latent),
        *(jaccard(1 / (1 + np.exp(-a)), 1 / (1 + np.exp(-b))) for a, b in concept),
    ]


FORMULAS = {"x_clip": x_clip, "drl": drl, "x_pool": x_pool, "ucofia": ucofia_parts, "rivrl": rivrl_parts}


def plain(name: str, texts: Texts, videos: VideoFeatures, weights: Weights) -> Floats:
    """The parts of all pairs, (C, T, V), one by one."""
    parts = []
    for t in range(len(texts)):
        there = texts.word_mask[t]
        for v in range(len(videos)):
            shown = videos.mask[v]
            of_pair = (
                texts.vector[t], texts.words[t, there], videos.video[v],
                videos.frames[v, shown], videos.temporal[v, shown], videos.patches[v, shown],
            )  # fmt: skip
            parts.append(FORMULAS[name](*(each.numpy() for each in of_pair), weights))
    return np.array(parts).T.reshape(-1, len(texts), len(videos))


def doubled(texts: Texts, videos: VideoFeatures) -> tuple[Texts, VideoFeatures]:
    return Texts(texts.vector.double(), texts.words.double(), texts.word_mask), VideoFeatures(
        *(getattr(videos, key).double() for key in ("video", "frames", "temporal", "patches")), videos.mask
    )


def weights_of(scorer: Scorer) -> dict[str, Floats]:
    return {key: weights.detach().double().numpy() for key, weights in scorer.state_dict().items()}


def identities(name: str, scorer: Scorer) -> dict[str, Floats]:
    """What the weights are before training: matrices the identity, biases zero."""
    found = {
        key: np.eye(*weights.shape) if weights.ndim == 2 else np.full(weights.shape, float(key.endswith("weight")))
        for key, weights in weights_of(scorer).items()
    }
    if name == "drl":
        return {key: np.zeros_like(weights) for key, weights in found.items()}  # all weigh the same
    if name == "rivrl":
        D = len(found["query"])
        drawn = torch.randn(512, D, generator=torch.Generator().manual_seed(0)).double().numpy()
        found |= {f"segments.{level}": np.stack([np.eye(D) / n] * n, axis=-1) for level, n in enumerate((2, 4))}
        for maps, start in (("latent", np.eye(D)), ("concept", drawn)):
            for side, levels in enumerate((1, 3)):
                found[f"{maps}.{side}.text"] = np.concatenate([start, np.zeros_like(start)], axis=1)
                found[f"{maps}.{side}.video"] = np.concatenate([start / levels] * levels, axis=1)
    return found


@every_scorer
def test_a_score_is_the_one_of_its_formula_whatever_the_weights(name: str, pairs: Pairs, setting: Settings) -> None:
    scorer, (texts, videos) = find(name)(setting()).double(), doubled(*pairs(4))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        # So far from the identity that even UCoFiA's matrix of frames, where the largest wins, makes a difference.
        for weights in scorer.parameters():
            weights += torch.randn(weights.shape, generator=generator, dtype=weights.dtype)
        found = scorer.parts(texts, videos).numpy()
    drawn, started = weights_of(scorer), identities(name, scorer)
    expected = plain(name, texts, videos, drawn)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    for key in drawn:
        without = plain(name, texts, videos, {**drawn, key: started[key]})
        assert np.abs(without - expected).max() > 1e-3, f"{key} changes nothing: this test does not see it"


@every_scorer
def test_before_training_matrices_are_the_identity(name: str, pairs: Pairs, setting: Settings) -> None:
    scorer, (texts, videos) = find(name)(setting()).double(), doubled(*pairs(4))
    expected = plain(name, texts, videos, identities(name, scorer))
    np.testing.assert_allclose(scorer.parts(texts, videos).detach().numpy(), expected, rtol=0, atol=1e-9)


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


def offsets_by_hubness(bank: Tensor, scale: float) -> Tensor:
    """`video_offsets`, by the correction of finished lists: one query which has all videos alike. (B, N) -> (N,)."""
    B, N = bank.shape
    everything = np.arange(N)
    lists = np.tile(everything, (B, 1)), bank.float().numpy()
    factors = hubness.sinkhorn(everything[None], np.zeros((1, N), np.float32), scale, 4, lists)[0]
    return torch.from_numpy((factors - factors.mean()) / scale)


@given(seed=st.integers(0, 1000), shape=st.tuples(st.integers(1, 7), st.integers(1, 7)), scale=st.floats(1.0, 200.0))
@settings(max_examples=40, deadline=None)
def test_what_is_taken_from_a_video_is_what_the_correction_of_finished_lists_takes(
    seed: int, shape: tuple[int, int], scale: float
) -> None:
    bank = 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    found = video_offsets(bank.double(), scale)
    torch.testing.assert_close(found, offsets_by_hubness(bank, scale), rtol=1e-9, atol=1e-9)


def test_ucofia_scores_are_the_mean_of_what_is_normalised(setting: Settings) -> None:
    scorer, generator = find("ucofia")(setting()), torch.Generator().manual_seed(1)
    parts, bank = torch.randn(3, 4, 5, generator=generator), torch.randn(3, 6, 5, generator=generator)
    columns = torch.tensor([[4, 0], [1, 2], [3, 3], [0, 4]])
    torch.testing.assert_close(scorer.combine(parts[..., :2], columns), parts[..., :2].mean(dim=0))
    offsets = torch.stack([offsets_by_hubness(part, scorer.scale) for part in bank]).float()
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
