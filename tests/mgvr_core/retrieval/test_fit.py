"""Fitted weights: never worse than what is to be had without fitting, and the same in whatever order one asks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mgvr_core.errors import MgvrError
from mgvr_core.retrieval.fit import PENALTY, fit_fusion, fusion_loss
from mgvr_core.scoring.fusion import FusionWeights

NAMES = tuple(FusionWeights.model_fields)
RELEASED = FusionWeights()

Scores = dict[str, NDArray[np.float32]]


def cosines(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.uniform(-0.5, 0.5, shape).astype(np.float32)


def drawn(random: np.random.Generator, logits: NDArray[np.float64]) -> NDArray[np.bool_]:
    """One right candidate a query (Q, k), drawn from the softmax of its logits."""
    noisy = logits + random.gumbel(size=logits.shape)
    return noisy == noisy.max(axis=1, keepdims=True)


def problem(seed: int, several: bool = False, Q: int = 12, k: int = 6) -> tuple[Scores, NDArray[np.bool_]]:
    """Some scores of which the right candidates know a little, some of which they know nothing; some queries lost."""
    random = np.random.default_rng(seed)
    names = [name for name in NAMES if random.random() < 0.7] or ["video"]
    relevant = random.random((Q, k)) < 0.4 if several else np.eye(k, dtype=bool)[random.integers(0, k, Q)]
    relevant[1:] &= random.random((Q - 1, 1)) < 0.8
    relevant[0, 0] = True
    lift = random.uniform(-0.2, 0.3, len(names))
    scores = {
        name: (cosines(random, Q, k) + extra * relevant).astype(np.float32)
        for name, extra in zip(names, lift, strict=True)
    }
    return scores, relevant


def as_arrays(scores: Scores, relevant: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    used = relevant.any(axis=1)
    return np.stack([values[used] for values in scores.values()]).astype(np.float64), relevant[used]


def test_the_weights_that_made_the_right_candidates_are_found_again() -> None:
    random = np.random.default_rng(0)
    planted = {"video": 2.0, "frame_weak": 0.0, "tib_frame": 12.0, "patch_weak": 6.0, "tib_patch": 0.0}
    scores = {name: cosines(random, 4000, 20) for name in NAMES}
    fused = sum(weight * scores[name].astype(float) for name, weight in planted.items())
    fit = fit_fusion(scores, drawn(random, np.asarray(fused)))
    for name, weight in planted.items():
        assert getattr(fit.weights, name) == pytest.approx(weight / 20, abs=0.03)
    assert fit.fitted
    assert fit.loss < fit.start_loss - 0.1
    mine = sum(getattr(fit.weights, name) * scores[name].astype(float) for name in NAMES)
    order, wanted = (np.argsort(values, axis=1).argsort(axis=1).ravel() for values in (np.asarray(mine), fused))
    assert np.corrcoef(order, wanted)[0, 1] > 0.99


def test_a_score_that_knows_nothing_gets_hardly_a_weight() -> None:
    random = np.random.default_rng(1)
    scores = {name: cosines(random, 2000, 20) for name in ("tib_frame", "patch_weak")}
    fit = fit_fusion(scores, drawn(random, 15.0 * scores["tib_frame"].astype(float)))
    assert fit.weights.patch_weak < 0.05 * fit.weights.tib_frame


def test_a_score_that_is_all_but_constant_does_not_drown_the_others() -> None:
    """As where rounding is all that tells candidates apart: no weight, however large, could make use of it."""
    random = np.random.default_rng(2)
    informative = cosines(random, 200, 10)
    noise = (0.3 + 3e-8 * random.integers(0, 2, (200, 10))).astype(np.float32)
    fit = fit_fusion({"video": noise, "tib_frame": informative}, drawn(random, 10.0 * informative.astype(float)))
    assert fit.weights.tib_frame > 0.99


def test_every_weight_is_set_and_those_of_scores_that_were_not_given_are_none() -> None:
    random = np.random.default_rng(3)
    scores = {name: cosines(random, 300, 8) for name in ("frame_weak", "video")}
    fit = fit_fusion(scores, drawn(random, 8.0 * (scores["video"].astype(float) + scores["frame_weak"])))
    assert fit.weights.model_fields_set == set(NAMES)
    assert set(fit.weights.active) == {"video", "frame_weak"}
    assert sum(getattr(fit.weights, name) for name in NAMES) == pytest.approx(1, abs=3e-4)


def test_scores_that_separate_without_a_fault_have_a_finite_optimum() -> None:
    relevant = np.eye(5, dtype=bool)
    fit = fit_fusion({"video": (0.02 * relevant).astype(np.float32)}, relevant)
    assert fit.weights == FusionWeights(**dict.fromkeys(NAMES, 0.0) | {"video": 1.0})
    assert 0 < fit.loss < 0.2
    assert np.isfinite(fit.start_loss)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9999), several=st.booleans())
def test_the_gradient_is_that_of_finite_differences(seed: int, several: bool) -> None:
    stacked, relevant = as_arrays(*problem(seed, several))
    weights = np.random.default_rng(seed).uniform(0, 20, len(stacked))
    _, gradient = fusion_loss(weights, stacked, relevant)
    step = 1e-5
    for n, axis in enumerate(np.eye(len(weights))):
        above, below = (fusion_loss(weights + sign * step * axis, stacked, relevant)[0] for sign in (1, -1))
        assert gradient[n] == pytest.approx((above - below) / (2 * step), abs=1e-8)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 9999), several=st.booleans())
def test_the_loss_is_that_of_the_formula(seed: int, several: bool) -> None:
    stacked, relevant = as_arrays(*problem(seed, several))
    weights = np.random.default_rng(seed).uniform(0, 20, len(stacked))
    losses = []
    for q, right in enumerate(relevant):
        powers = [np.exp(sum(w * score[q, c] for w, score in zip(weights, stacked, strict=True))) for c in range(6)]
        losses.append(-np.log(sum(powers[c] for c in range(6) if right[c]) / sum(powers)))
    assert fusion_loss(weights, stacked, relevant)[0] == pytest.approx(np.mean(losses), abs=1e-12)


def test_the_loss_of_weights_beyond_all_measure_is_a_number() -> None:
    scores, relevant = np.array([[[1.0, -1.0, 0.5]]]), np.array([[False, True, False]])
    loss, gradient = fusion_loss(np.array([1e6]), scores, relevant)
    assert loss == pytest.approx(2e6)
    assert gradient == pytest.approx([2.0])


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 9999), several=st.booleans())
def test_no_single_score_and_no_released_weights_fit_better(seed: int, several: bool) -> None:
    """At any scale: they are all among what is minimised over, but for the penalty."""
    scores, relevant = problem(seed, several)
    fit = fit_fusion(scores, relevant)
    stacked, used = as_arrays(scores, relevant)
    released = np.array([getattr(RELEASED, name) for name in scores])
    for direction in (*np.eye(len(stacked)), released):
        for scale in np.geomspace(1e-3, 1e3, 121):
            weights = scale * direction
            loss = fusion_loss(weights, stacked, used)[0] + PENALTY / 2 * (weights @ weights)
            assert fit.loss <= loss + 1e-9
            assert fit.start_loss <= loss + 1e-9 or direction is not released or not released.any()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 9999), several=st.booleans())
def test_weights_are_shares_and_never_negative(seed: int, several: bool) -> None:
    scores, relevant = problem(seed, several)
    weights = fit_fusion(scores, relevant).weights
    values = [getattr(weights, name) for name in NAMES]
    assert min(values) >= 0
    assert sum(values) == pytest.approx(1, abs=3e-4)
    assert all(value == round(value, 4) for value in values)
    assert set(weights.active) <= scores.keys()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 9999), several=st.booleans())
def test_the_order_of_queries_candidates_and_scores_changes_nothing(seed: int, several: bool) -> None:
    scores, relevant = problem(seed, several)
    random = np.random.default_rng(seed)
    rows = random.permutation(len(relevant))
    columns = random.permuted(np.tile(np.arange(relevant.shape[1]), (len(rows), 1)), axis=1)

    def turned(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values[rows], columns, axis=1)

    others = {name: turned(scores[name]) for name in random.permutation(list(scores))}
    assert fit_fusion(others, turned(relevant)) == fit_fusion(scores, relevant)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 9999))
def test_queries_that_stage_1_lost_change_nothing_but_their_count(seed: int) -> None:
    scores, relevant = problem(seed)
    used = relevant.any(axis=1)
    whole, kept = fit_fusion(scores, relevant), fit_fusion({n: v[used] for n, v in scores.items()}, relevant[used])
    assert (whole.queries, whole.skipped) == (used.sum(), (~used).sum())
    assert (kept.queries, kept.skipped) == (used.sum(), 0)
    assert (whole.weights, whole.loss, whole.start_loss) == (kept.weights, kept.loss, kept.start_loss)


@pytest.mark.parametrize("names", [("video", "tib_frame"), ("tib_patch", "patch_weak"), ("tib_patch",)])
def test_where_no_score_helps_the_released_weights_stay(names: tuple[str, ...]) -> None:
    """Scores that put the right candidate last."""
    random = np.random.default_rng(5)
    relevant = np.eye(6, dtype=bool)
    scores = {name: (0.1 * cosines(random, 6, 6) - 0.3 * relevant).astype(np.float32) for name in names}
    fit = fit_fusion(scores, relevant)
    assert not fit.fitted
    assert fit.loss == pytest.approx(np.log(6), abs=1e-3)
    released = {name: getattr(RELEASED, name) for name in names}
    total = sum(released.values())
    expected = {name: round(weight / total, 4) for name, weight in released.items()} if total else {"tib_patch": 1.0}
    assert fit.weights == FusionWeights(**dict.fromkeys(NAMES, 0.0) | expected)


def test_one_candidate_a_query_is_nothing_to_fit_to() -> None:
    fit = fit_fusion({"video": np.full((3, 1), 0.4, np.float32)}, np.ones((3, 1), bool))
    assert (fit.fitted, fit.loss, fit.queries) == (False, 0.0, 3)


def test_validation_queries_without_a_right_candidate_are_refused_with_a_way_out() -> None:
    scores = {"video": cosines(np.random.default_rng(0), 7, 5)}
    with pytest.raises(MgvrError, match=r"none of 7 validation queries .* 5 candidates.*larger.*fusion: released"):
        fit_fusion(scores, np.zeros((7, 5), bool))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_named(value: float) -> None:
    random = np.random.default_rng(0)
    scores = {name: cosines(random, 7, 5) for name in ("video", "tib_frame")}
    scores["tib_frame"][3, 2] = value
    with pytest.raises(MgvrError, match=r"score tib_frame of query 3 .*NaN or infinite"):
        fit_fusion(scores, np.eye(7, 5, dtype=bool))


@pytest.mark.parametrize(
    "scores", [{}, {"fused": np.zeros((2, 3), np.float32)}, {"video": np.zeros((2, 2), np.float32)}]
)
def test_what_is_no_score_of_these_candidates_is_refused(scores: Scores) -> None:
    with pytest.raises(ValueError, match=r"are not scores of shape \(2, 3\)"):
        fit_fusion(scores, np.ones((2, 3), bool))
