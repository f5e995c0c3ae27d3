"""Hubness corrections on lists: the textbook's on whole matrices, sensible on short ones, and blind to order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.hubness import (
    DUAL_SOFTMAX,
    QB_NORM,
    SINKHORN,
    SINKHORN_BANK,
    CorrectionConfig,
    correct,
    dual_softmax,
    qb_norm,
    sinkhorn,
)
from mgvr_core.evaluation.metrics import positions_from_scores, summarise

List = tuple[NDArray[np.int64], NDArray[np.float32]]


def cosines(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return random.uniform(-0.2, 0.6, shape).astype(np.float32)


def lists(matrix: NDArray, k: int) -> List:
    index = np.argsort(-matrix, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(matrix, index, axis=1)


def spread(index: NDArray, values: NDArray, N: int) -> NDArray:
    """Lists as a matrix, with -inf for what is in none."""
    matrix = np.full((len(index), N), -np.inf)
    np.put_along_axis(matrix, index, values, axis=1)
    return matrix


def plain_sinkhorn(K: NDArray, iterations: int) -> NDArray:
    b = 1 / K.sum(axis=0)
    for _ in range(iterations):
        a = 1 / (K @ b)
        b = 1 / (a @ K)
    return np.log(b)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 15), st.integers(1, 3), st.integers(0, 999))
def test_whole_lists_give_the_textbook_s_qb_norm(Q: int, B: int, N: int, activation: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    test, bank = cosines(random, Q, N), cosines(random, B, N)
    found = qb_norm(*lists(test, N), *lists(bank, N), beta=20.0, activation=activation)
    hubs = {video for row in bank for video in np.argsort(-row)[:activation]}
    activated = [int(row.argmax()) in hubs for row in test]
    normalised = np.exp(20.0 * test.astype(float)) / np.exp(20.0 * bank.astype(float)).sum(axis=0)
    assert found.activated.tolist() == activated
    expected = np.where(np.array(activated)[:, None], np.log(normalised), test)
    np.testing.assert_allclose(spread(lists(test, N)[0], found.score, N), expected, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 15), st.sampled_from([1.0, 20.0, 100.0]), st.integers(0, 999))
def test_whole_lists_give_the_textbook_s_dual_softmax(Q: int, N: int, beta: float, seed: int) -> None:
    test = cosines(np.random.default_rng(seed), Q, N)
    powers = np.exp(beta * test.astype(float))
    index, score = lists(test, N)
    np.testing.assert_allclose(
        spread(index, dual_softmax(index, score, beta), N), test * powers / powers.sum(axis=0), rtol=1e-9
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(1, 5), st.integers(0, 999))
def test_whole_lists_give_the_textbook_s_sinkhorn(Q: int, B: int, N: int, iterations: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    test, bank = cosines(random, Q, N), cosines(random, B, N)
    index, score = lists(test, N)
    for source, given_bank in ((test, None), (bank, lists(bank, N))):
        expected = 20.0 * test.astype(float) + plain_sinkhorn(np.exp(20.0 * source.astype(float)), iterations)
        found = sinkhorn(index, score, 20.0, iterations, given_bank)
        np.testing.assert_allclose(spread(index, found, N), expected, atol=1e-8)


def test_many_rounds_of_sinkhorn_give_every_video_the_same_share() -> None:
    test = cosines(np.random.default_rng(0), 30, 20)
    index, score = lists(test, 20)
    log = spread(index, sinkhorn(index, score, 20.0, 300), 20)
    shares = np.exp(log - np.logaddexp.reduce(log, axis=1, keepdims=True)).sum(axis=0)
    np.testing.assert_allclose(shares, 30 / 20, rtol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 10), st.integers(1, 10), st.integers(2, 12), st.integers(0, 9999))
def test_neither_the_order_of_queries_nor_of_a_list_matters(Q: int, B: int, N: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Rounded, so that equal scores occur.
    test, bank = np.round(cosines(random, Q, N), 1), np.round(cosines(random, B, N), 1)
    k, kb = random.integers(1, N + 1, 2)

    def shuffled(index: NDArray, score: NDArray) -> tuple[List, NDArray]:
        rows = random.permutation(len(index))
        places = random.permuted(np.broadcast_to(np.arange(index.shape[1]), index.shape), axis=1)
        index, score = (np.take_along_axis(values[rows], places, axis=1) for values in (index, score))
        return (index, score), rows

    asked, asked_bank = lists(test, k), lists(bank, kb)
    (again, rows), (again_bank, _) = shuffled(*asked), shuffled(*asked_bank)
    functions: list[Callable[[List, List], NDArray]] = [
        lambda a, b: qb_norm(*a, *b).score,
        lambda a, _: dual_softmax(*a),
        lambda a, _: sinkhorn(*a),
        lambda a, b: sinkhorn(*a, bank=b),
    ]
    for function in functions:
        expected = spread(asked[0], function(asked, asked_bank), N)[rows]
        np.testing.assert_allclose(spread(again[0], function(again, again_bank), N), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 20])
def test_a_short_bank_never_makes_a_hub_of_what_it_did_not_recall(k: int) -> None:
    """What a bank leaves out counts as no more than its last score: the less recalled, the less divided by."""
    random = np.random.default_rng(k)
    N = 60
    bank = cosines(random, 40, N)
    index, score = lists(bank, k)
    asked = np.arange(N)[None], np.where(np.arange(N) == index[0, 0], 0.9, 0.3)[None].astype(np.float32)
    divisor = 20.0 * asked[1].astype(float) - qb_norm(*asked, index, score).score
    whole = np.log(np.exp(20.0 * bank.astype(float)).sum(axis=0))
    assert (divisor[0] >= whole - 1e-9).all()
    recalled = np.isin(np.arange(N), index)
    assert divisor[0][~recalled].max(initial=-np.inf) <= divisor[0][recalled].min() + 1e-9
    np.testing.assert_allclose(divisor[0][~recalled], np.logaddexp.reduce(20.0 * score[:, -1].astype(float)))


def test_a_video_that_no_bank_query_recalled_does_not_come_first_by_that() -> None:
    """Its best video is a hub, but the other candidates, of which the bank knows nothing, are far."""
    index, score = np.array([[0, 1, 2]]), np.array([[0.5, 0.2, 0.1]], np.float32)
    bank_index, bank_score = np.array([[0, 3], [3, 0]]), np.array([[0.3, 0.29], [0.3, 0.29]], np.float32)
    found = qb_norm(index, score, bank_index, bank_score)
    assert found.activated.tolist() == [True]
    assert np.argsort(-found.score[0]).tolist() == [0, 1, 2]
    assert np.isfinite(sinkhorn(index, score, bank=(bank_index, bank_score))).all()


def test_a_hub_loses_to_a_video_that_is_close_to_this_query_alone() -> None:
    index, score = np.array([[0, 1], [1, 0]]), np.array([[0.31, 0.30], [0.40, 0.10]], np.float32)
    bank = np.array([[0, 1, 2]] * 3), np.array([[0.35, 0.1, 0.05]] * 3, np.float32)
    found = qb_norm(index, score, *bank)
    assert found.activated.tolist() == [True, False]
    assert found.score[0, 1] > found.score[0, 0]
    assert np.array_equal(found.score[1], score[1].astype(float))


def test_large_scores_overflow_nothing() -> None:
    """Fused scores need not be cosines."""
    random = np.random.default_rng(3)
    test, bank = 90 * cosines(random, 20, 30), 90 * cosines(random, 20, 30)
    asked, known = lists(test, 10), lists(bank, 10)
    for values in (qb_norm(*asked, *known).score, dual_softmax(*asked), sinkhorn(*asked), sinkhorn(*asked, bank=known)):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_refused_by_its_row(bad: float) -> None:
    good = lists(cosines(np.random.default_rng(0), 4, 5), 3)
    index, score = good[0], good[1].copy()
    score[2, 1] = bad
    for function in (lambda: dual_softmax(index, score), lambda: sinkhorn(index, score)):
        with pytest.raises(MgvrError, match="score of query 2 "):
            function()
    with pytest.raises(MgvrError, match="score of query 2 "):
        qb_norm(index, score, *good)
    with pytest.raises(MgvrError, match="score of bank query 2 "):
        qb_norm(*good, index, score)
    with pytest.raises(MgvrError, match="score of bank query 2 "):
        sinkhorn(*good, bank=(index, score))


def test_a_published_matrix_gives_its_published_dual_softmax_figures(shared) -> None:
    path = shared / "features" / "msrvtt_1ka_similarity.npy"
    if not path.is_file():
        pytest.skip("the published similarities are not in ../shared/features")
    matrix = np.load(path)

    def figures(scores: NDArray) -> list[float]:
        values = summarise(positions_from_scores(scores, [[row] for row in range(1000)])).values
        return [round(100 * values[name], 1) for name in ("R@1", "R@5", "R@10")]

    assert figures(matrix) == [48.0, 73.0, 82.9]
    index, score = lists(matrix, 1000)
    assert figures(spread(index, dual_softmax(index, score, 100.0), 1000)) == [52.8, 78.0, 85.8]
    # Lists of 50 lose little of it.
    index, score = lists(matrix, 50)
    assert figures(spread(index, dual_softmax(index, score, 100.0), 1000))[0] > 52


def test_a_configuration_names_what_it_does() -> None:
    asked, known = (lists(cosines(np.random.default_rng(seed), 6, 8), 4) for seed in (0, 1))
    scores, label = correct(CorrectionConfig(), *asked, known)
    assert label is QB_NORM
    assert np.array_equal(scores, qb_norm(*asked, *known).score)
    scores, label = correct(CorrectionConfig(kind="dual_softmax", beta=7), *asked)
    assert label is DUAL_SOFTMAX
    assert np.array_equal(scores, dual_softmax(*asked, 7))
    for bank, expected in ((None, SINKHORN), (known, SINKHORN_BANK)):
        scores, label = correct(CorrectionConfig(kind="sinkhorn", iterations=2), *asked, bank)
        assert label is expected
        assert np.array_equal(scores, sinkhorn(*asked, 100.0, 2, bank))
    with pytest.raises(MgvrError, match="bank of training captions"):
        correct(CorrectionConfig(), *asked)


def test_labels_say_which_figures_read_the_other_test_queries() -> None:
    told = {label for label in (QB_NORM, DUAL_SOFTMAX, SINKHORN, SINKHORN_BANK) if "transductive" in label}
    assert told == {DUAL_SOFTMAX, SINKHORN}
    assert all("reads the other test queries" in label for label in told)


@pytest.mark.parametrize("wrong", [{"beta": 0}, {"beta": float("inf")}, {"activation": 0}, {"iterations": 0}])
def test_settings_without_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        CorrectionConfig(**wrong)
