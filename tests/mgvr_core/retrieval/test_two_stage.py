"""Both stages together: the final order, and the places of right answers in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from feature_sets import features_from_table
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mgvr_core.retrieval import coarse
from mgvr_core.retrieval.coarse import Candidates
from mgvr_core.retrieval.fine import fine_shard
from mgvr_core.retrieval.rerank import Reranker, score_pairs
from mgvr_core.retrieval.two_stage import Ranking, coarse_ranking, positions, reranked, whole_scores
from mgvr_core.scoring.fusion import FusionWeights, fuse, score_each
from mgvr_core.scoring.video import project_text

Table = Callable[..., pa.Table]


@settings(deadline=None)
@given(T=st.integers(1, 6), V=st.integers(1, 12), shards=st.integers(1, 4), seed=st.integers(0, 999))
def test_with_all_videos_as_candidates_the_order_is_that_of_exhaustive_scoring(
    feature_table: Table, T: int, V: int, shards: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    table = feature_table(random, V)
    text = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(T, 8)).astype(np.float32)), dim=-1)
    W, U = (torch.from_numpy(random.normal(size=(n, n)).astype(np.float32)) for n in (8, 3))
    ranker = Reranker(FusionWeights(), W, U)
    everything = features_from_table(table)

    queries = project_text(text, W).numpy()
    candidates = coarse.search(queries, everything.video.numpy(), V)
    fused = np.empty((T, V), np.float32)
    for rows in np.array_split(np.arange(V), shards):  # stage 2 sees one shard of videos at a time
        row, column = np.nonzero(np.isin(candidates.index, rows))
        if len(rows):
            video = candidates.index[row, column] - rows[0]
            shard = table.slice(rows[0], len(rows))
            fused[row, column] = score_pairs(ranker, ranker.texts(text), fine_shard(shard), row, video)["fused"]
    ranking = reranked(candidates, fused)

    every = np.repeat(np.arange(T), V), np.tile(np.arange(V), T)
    exhaustive = score_pairs(ranker, ranker.texts(text), fine_shard(table), *every)["fused"].reshape(T, V)
    assert np.array_equal(ranking.score, np.take_along_axis(exhaustive, ranking.index, axis=1))
    assert np.array_equal(ranking.index, np.argsort(-exhaustive, axis=1, kind="stable"))
    plain = fuse(score_each(text, everything, W, U, ranker.weights), ranker.weights)  # by the formulas, pair by pair
    np.testing.assert_allclose(exhaustive, plain.numpy(), atol=1e-5)


def brute_force(
    queries: NDArray, items: NDArray, candidates: Candidates, fused: NDArray, q: int, n: int
) -> tuple[int, int]:
    """The rule itself: candidates by fused score, then all others by coarse score."""
    keys = {item: (0, -score) for item, score in zip(candidates.index[q], fused[q], strict=True)}
    for item, score in enumerate(items @ queries[q]):
        keys.setdefault(item, (1, -score))
    mine = keys.pop(n)
    return sum(key < mine for key in keys.values()), sum(key == mine for key in keys.values())


def random_case(seed: int, Q: int, N: int, k: int) -> tuple[NDArray, NDArray, Candidates, NDArray]:
    """Small integers, so that ties are many and exact."""
    random = np.random.default_rng(seed)
    queries, items = (random.integers(-2, 3, (n, 3)).astype(np.float32) for n in (Q, N))
    candidates = coarse.search(queries, items, k)
    fused = random.integers(-3, 4, candidates.index.shape).astype(np.float32)
    return queries, items, candidates, fused


cases = {"seed": st.integers(0, 999), "Q": st.integers(1, 6), "N": st.integers(1, 20), "k": st.integers(1, 20)}


@settings(deadline=None)
@given(**cases)
def test_places_of_right_answers_are_those_of_the_whole_order(seed: int, Q: int, N: int, k: int) -> None:
    queries, items, candidates, fused = random_case(seed, Q, N, k)
    query, item = (axis.ravel() for axis in np.indices((Q, N)))
    for ranking, scores in ((reranked(candidates, fused), fused), (coarse_ranking(candidates), candidates.score)):
        better, tied = positions(ranking, candidates, queries, items, query, item)
        expected = [brute_force(queries, items, candidates, scores, q, n) for q, n in zip(query, item, strict=True)]
        assert list(zip(better.tolist(), tied.tolist(), strict=True)) == expected


@settings(deadline=None)
@given(**cases)
def test_one_score_for_every_item_sorts_as_the_whole_order_does(seed: int, Q: int, N: int, k: int) -> None:
    queries, items, candidates, fused = random_case(seed, Q, N, k)
    for ranking, scores in ((reranked(candidates, fused), fused), (coarse_ranking(candidates), candidates.score)):
        whole = whole_scores(ranking, queries, items)
        assert whole.shape == (Q, N)
        for q in range(Q):
            for n in range(N):
                place = int((whole[q] > whole[q, n]).sum()), int((whole[q] == whole[q, n]).sum()) - 1
                assert place == brute_force(queries, items, candidates, scores, q, n)


def test_the_rerank_orders_by_fused_score_and_remembers_the_coarse_rank() -> None:
    candidates = Candidates(np.array([[7, 2, 9, 4]]), np.array([[0.9, 0.8, 0.7, 0.6]], np.float32))
    ranking = reranked(candidates, np.array([[0.1, 0.5, 0.5, 0.7]], np.float32))
    assert ranking.index.tolist() == [[4, 2, 9, 7]]
    assert ranking.coarse_rank.tolist() == [[4, 2, 3, 1]]
    np.testing.assert_array_equal(ranking.score, np.array([[0.7, 0.5, 0.5, 0.1]], np.float32))


@settings(deadline=None)
@given(**cases)
def test_equal_fused_scores_come_in_the_order_of_ids(seed: int, Q: int, N: int, k: int) -> None:
    _, _, candidates, fused = random_case(seed, Q, N, k)
    ranking: Ranking = reranked(candidates, fused)
    for index, score in zip(ranking.index, ranking.score, strict=True):
        keys = list(zip((-score).tolist(), index.tolist(), strict=True))
        assert keys == sorted(keys)
    assert np.array_equal(np.sort(ranking.index), np.sort(candidates.index))
    assert np.array_equal(np.take_along_axis(candidates.index, ranking.coarse_rank - 1, axis=1), ranking.index)
