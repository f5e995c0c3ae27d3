"""Stage 1: exact, and the same answer whenever it is asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mgvr_core.retrieval.coarse import Candidates, positions_behind, search


def best(scores: NDArray, k: int) -> NDArray:
    """The k best of every row, equal scores by their index: a stable sort, and nothing else."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def small_integers(random: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Vectors whose inner products are exact in fp32, and often equal."""
    return random.integers(-2, 3, shape).astype(np.float32)


@settings(deadline=None)
@given(Q=st.integers(1, 30), N=st.integers(1, 40), k=st.integers(1, 45), D=st.integers(1, 4), seed=st.integers(0, 999))
def test_the_best_items_come_in_order_and_ties_in_the_order_of_ids(Q: int, N: int, k: int, D: int, seed: int) -> None:
    """At the last place, too: which of two equal items is recalled does not depend on the search library."""
    random = np.random.default_rng(seed)
    queries, items = small_integers(random, Q, D), small_integers(random, N, D)
    scores = queries @ items.T
    found = search(queries, items, k)
    expected = best(scores, k)
    assert found.index.shape == (Q, min(k, N))
    assert np.array_equal(found.index, expected)
    assert np.array_equal(found.score, np.take_along_axis(scores, expected, axis=1))


@pytest.mark.parametrize("k", [1, 50, 99, 100, 150, 599])
def test_ties_are_settled_alike_at_every_length_of_the_list(k: int) -> None:
    random = np.random.default_rng(0)
    items = small_integers(random, 40, 8)[random.integers(0, 40, 600)]  # every item some 15 times
    queries = small_integers(random, 64, 8)
    assert np.array_equal(search(queries, items, k).index, best(queries @ items.T, k))


@pytest.mark.parametrize(("D", "N"), [(64, 300), (128, 5000), (512, 700)])
def test_the_scores_of_a_query_do_not_depend_on_what_is_asked_with_it(D: int, N: int) -> None:
    random = np.random.default_rng(0)
    queries, items = (random.standard_normal((n, D), np.float32) for n in (4200, N))
    whole = search(queries, items, 20)
    for some in (slice(0, 1), slice(5, 55), slice(7, 1000), slice(4000, 4200)):
        part = search(queries[some], items, 20)
        assert np.array_equal(part.score, whole.score[some])
        assert np.array_equal(part.index, whole.index[some])


def test_the_search_is_by_inner_product_and_not_by_cosine() -> None:
    items = np.array([[1, 0], [3, 4]], np.float32)
    assert search(np.array([[1, 0]], np.float32), items, 2).index.tolist() == [[1, 0]]


def test_real_scores_are_those_of_the_product() -> None:
    random = np.random.default_rng(1)
    queries, items = random.normal(size=(30, 64)).astype(np.float32), random.normal(size=(500, 64)).astype(np.float32)
    found = search(queries, items, 20)
    scores = queries.astype(np.float64) @ items.T.astype(np.float64)
    np.testing.assert_allclose(found.score, -np.sort(-scores, axis=1)[:, :20], rtol=1e-5)


@settings(deadline=None)
@given(Q=st.integers(1, 8), N=st.integers(2, 30), D=st.integers(1, 4), seed=st.integers(0, 999))
def test_places_behind_the_candidates_are_those_of_a_full_sort(Q: int, N: int, D: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    queries, items = small_integers(random, Q, D), small_integers(random, N, D)
    k = int(random.integers(1, N))
    candidates = search(queries, items, k)
    pairs = [(q, n) for q in range(Q) for n in range(N) if n not in candidates.index[q]]
    query, item = np.array(pairs)[random.permutation(len(pairs))].T
    better, tied = positions_behind(queries, items, candidates, query, item)
    scores = queries @ items.T
    for m, (q, n) in enumerate(zip(query, item, strict=True)):
        others = [scores[q, i] for i in range(N) if i not in candidates.index[q] and i != n]
        assert better[m] == k + sum(score > scores[q, n] for score in others)
        assert tied[m] == sum(score == scores[q, n] for score in others)


def test_a_candidate_stands_before_the_rest_whatever_its_score_says() -> None:
    queries, items = np.ones((1, 1), np.float32), np.array([[1], [5], [3], [3]], np.float32)
    candidates = Candidates(np.array([[0]]), np.array([[1]], np.float32))
    better, tied = positions_behind(queries, items, candidates, np.array([0, 0]), np.array([1, 2]))
    assert better.tolist() == [1, 2]
    assert tied.tolist() == [0, 1]


def test_more_queries_than_fit_a_block_are_counted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    queries, items = small_integers(random, 23, 3), small_integers(random, 40, 3)
    candidates = search(queries, items, 5)
    query = np.repeat(np.arange(23), 2)[::-1].copy()
    item = np.array([random.choice(np.setdiff1d(np.arange(40), candidates.index[q])) for q in query])
    whole = positions_behind(queries, items, candidates, query, item)
    monkeypatch.setattr("mgvr_core.retrieval.coarse._QUERIES", 4)
    monkeypatch.setattr("mgvr_core.retrieval.coarse._ITEMS", 7)
    blocks = positions_behind(queries, items, candidates, query, item)
    assert all(np.array_equal(a, b) for a, b in zip(whole, blocks, strict=True))
