"""Stage 2: the fused score of single pairs, wherever their videos lie."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from feature_sets import features_from_table
from hypothesis import given, settings
from hypothesis import strategies as st

from mgvr_core.retrieval.fine import fine_shard
from mgvr_core.retrieval.rerank import Reranker, score_pairs
from mgvr_core.scoring.fusion import FusionWeights, fuse, score_each

Table = Callable[..., pa.Table]
F, D = 3, 8


def reranker(random: np.random.Generator, **weights: float) -> Reranker:
    return Reranker(
        FusionWeights(**weights),
        torch.from_numpy(random.normal(size=(D, D)).astype(np.float32)),
        torch.from_numpy(random.normal(size=(F, F)).astype(np.float32)),
    )


def texts(random: np.random.Generator, T: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(T, D)).astype(np.float32)), dim=-1)


@settings(deadline=None)
@given(T=st.integers(1, 6), V=st.integers(1, 8), M=st.integers(0, 40), seed=st.integers(0, 999))
def test_a_pairs_score_is_that_of_scoring_everything(feature_table: Table, T: int, V: int, M: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    table, text, ranker = feature_table(random, V), texts(random, T), reranker(random, tib_patch=0.3)
    query, video = random.integers(0, T, M), random.integers(0, V, M)
    found = score_pairs(ranker, ranker.texts(text), fine_shard(table), query, video)
    every = score_each(text, features_from_table(table), ranker.projection, ranker.mixing, ranker.weights)
    every["fused"] = fuse(every, ranker.weights)
    assert found.keys() == every.keys()
    for name, scores in every.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], scores.numpy()[query, video], atol=1e-5)


@settings(deadline=None)
@given(V=st.integers(2, 12), T=st.integers(1, 5), seed=st.integers(0, 999))
def test_pairs_scored_shard_by_shard_have_the_bits_of_pairs_scored_at_once(
    feature_table: Table, V: int, T: int, seed: int
) -> None:
    """So that how a set is cut into shards changes no ranking."""
    random = np.random.default_rng(seed)
    table, text, ranker = feature_table(random, V), texts(random, T), reranker(random)
    query, video = random.integers(0, T, 30), random.integers(0, V, 30)
    at_once = score_pairs(ranker, ranker.texts(text), fine_shard(table), query, video)
    cuts = [0, *sorted(random.choice(np.arange(1, V), random.integers(0, V), replace=False).tolist()), V]
    in_chunks = pa.concat_tables([table.slice(a, b - a) for a, b in pairwise(cuts)])
    for name, scores in score_pairs(ranker, ranker.texts(text), fine_shard(in_chunks), query, video).items():
        assert np.array_equal(scores, at_once[name])
    for begin, end in pairwise(cuts):
        mine = (video >= begin) & (video < end)
        part = score_pairs(
            ranker, ranker.texts(text), fine_shard(table.slice(begin, end - begin)), query[mine], video[mine] - begin
        )
        for name, scores in part.items():
            assert np.array_equal(scores, at_once[name][mine])


def test_only_the_columns_of_weighted_scores_are_read(feature_table: Table) -> None:
    random = np.random.default_rng(0)
    table, text = feature_table(random, 4), texts(random, 2)
    frames_only = reranker(random, patch_weak=0.0)
    assert "patches" not in frames_only.columns()
    assert "patches" in reranker(random).columns()
    pairs = np.array([0, 1, 1]), np.array([3, 0, 2])
    whole, narrow = (
        score_pairs(frames_only, frames_only.texts(text), fine_shard(t), *pairs)
        for t in (table, table.select(frames_only.columns()))
    )
    assert all(np.array_equal(whole[name], narrow[name]) for name in whole)
    wanting = reranker(random)
    with pytest.raises(ValueError, match="no patch features"):
        score_pairs(wanting, wanting.texts(text), fine_shard(table.select(frames_only.columns())), *pairs)
