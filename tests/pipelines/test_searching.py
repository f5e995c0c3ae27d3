"""Both stages spread over workers: however many there are, and though one dies, what they find is the same."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from numpy.typing import NDArray
from retrieval_sets import D, F, made_set, near_features
from torch.nn.functional import normalize

from mgvr_core.features.contents import Change
from mgvr_core.features.layout import CodecConfig
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.retrieval import coarse
from mgvr_core.retrieval.certify import certify, rth_best
from mgvr_core.retrieval.coarse import Candidates
from mgvr_core.retrieval.fine import fine_shard
from mgvr_core.retrieval.index import IndexConfig
from mgvr_core.retrieval.rerank import Reranker, score_pairs
from mgvr_core.scoring.fusion import FusionWeights
from pipelines.answering import candidate_pairs, index_identity
from pipelines.models import ComputeConfig
from pipelines.pool import load_pool
from pipelines.progress import Silent
from pipelines.searching import Crew, SearchConfig, _shares

SIZES, Q, K, R = (9, 4, 7, 8, 12), 12, 6, 3
N = sum(SIZES) - 2
INDEX = IndexConfig(factory="IVF4,Flat", search="nprobe=1")


@dataclass(frozen=True)
class Plain:
    """What one process finds that has everything in memory."""

    ranker: Reranker
    text: NDArray[np.float32]
    queries: NDArray[np.float32]
    """t^ W as whole numbers, so that coarse scores are exact and tie."""
    items: NDArray[np.float32]
    candidates: Candidates
    fused: NDArray[np.float32]
    """(Q, N)"""


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Coded without a loss, so that it has bounds."""
    numbers = np.random.default_rng(0).permutation(sum(SIZES))
    names = [[f"v{number:02d}" for number in part] for part in np.split(numbers, np.cumsum(SIZES)[:-1])]
    features = near_features(0, sum(SIZES))
    features["video"] = torch.from_numpy(np.random.default_rng(1).integers(-1, 2, (sum(SIZES), D))).float()
    return made_set(tmp_path_factory.mktemp("set"), names, ["v03", "v17"], features, CodecConfig(values="fp16"))


@pytest.fixture(scope="module")
def plain(snapshot: Snapshot) -> Plain:
    generator = torch.Generator().manual_seed(0)
    ranker = Reranker(FusionWeights(), torch.randn(D, D, generator=generator), torch.randn(F, F, generator=generator))
    text = normalize(torch.randn(Q, D, generator=generator), dim=-1)
    queries = np.random.default_rng(2).integers(-2, 3, (Q, D)).astype(np.float32)
    codec = snapshot.codec()
    table = pa.concat_tables(snapshot.tables(["id", *ranker.columns(codec)])).sort_by("id").combine_chunks()
    items = tensor_column(table, "video").astype(np.float32)
    every = [axis.reshape(-1) for axis in np.mgrid[:Q, :N]]
    fused = score_pairs(ranker, ranker.texts(text), fine_shard(table, codec), *every)["fused"].reshape(Q, N)
    return Plain(ranker, text.numpy(), queries, items, coarse.search(queries, items, K), fused)


Crews = Callable[..., Crew]


@pytest.fixture(scope="module")
def make_crew(ray_cluster: None, snapshot: Snapshot) -> Iterator[Crews]:
    """Crews of some workers; a process of Ray takes seconds to start."""
    made: list[Crew] = []

    def make(workers: int, of: Snapshot = snapshot, **settings: Any) -> Crew:
        config = SearchConfig(workers=workers, **settings)
        made.append(Crew(of, load_pool(of), config, ComputeConfig(device="cpu")))
        return made[-1]

    yield make
    for each in made:
        end(each)


def end(crew: Crew) -> None:
    for actor in (*crew._workers, *filter(None, [crew._index])):
        ray.kill(actor)


@pytest.fixture(scope="module")
def two(make_crew: Crews) -> Crew:
    return make_crew(2)


def require_same(found: Candidates, expected: Candidates) -> None:
    assert np.array_equal(found.index, expected.index)
    assert np.array_equal(found.score, expected.score)


def require_fused(crew: Crew, plain: Plain, counter: Any) -> None:
    query, video = candidate_pairs(plain.candidates)
    scores = crew.rerank(plain.ranker, plain.text, query, video, counter)
    assert scores.keys() == {*plain.ranker.weights.active, "fused"}
    assert np.array_equal(scores["fused"], plain.fused[query, video])


@pytest.mark.parametrize(("workers", "memory_gb"), [(1, 0.0), (3, 2.0), (2, 2.0)])
def test_any_number_of_workers_finds_the_same(
    make_crew: Crews, plain: Plain, workers: int, memory_gb: float, request: pytest.FixtureRequest
) -> None:
    made = request.getfixturevalue("two") if workers == 2 else make_crew(workers, memory_gb=memory_gb)
    assert len(made._workers) == workers
    require_same(made.search(plain.queries, K), plain.candidates)
    require_same(made.search(plain.queries, N + 5), coarse.search(plain.queries, plain.items, N))
    require_fused(made, plain, Silent())
    scores = plain.queries @ plain.items.T
    truth = scores[np.arange(Q), np.arange(Q)]
    standing = made.standing(plain.queries, truth)
    assert np.array_equal(standing.above, (scores > truth[:, None]).sum(axis=1))
    assert np.array_equal(standing.level, (scores == truth[:, None]).sum(axis=1))
    wanted = np.array([5, 0, 5, N - 1, 11])
    assert np.array_equal(made.vectors(wanted, D), plain.items[wanted])

    def score(query: NDArray[np.int64], video: NDArray[np.int64]) -> NDArray[np.float32]:
        return made.rerank(plain.ranker, plain.text, query, video, Silent())["fused"]

    known = np.take_along_axis(plain.fused, plain.candidates.index, axis=1)
    promising = made.promising(plain.ranker, plain.text, plain.candidates.index, rth_best(R, known), N)
    proven = certify(R, plain.candidates, known, promising, score)
    assert proven.certified.all()
    assert np.array_equal(proven.best(R)[0], np.argsort(-plain.fused, axis=1, kind="stable")[:, :R])
    if workers != 2:
        end(made)  # the cores are few, and each holds one


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 9])
def test_shards_are_shared_out_evenly_and_nobody_goes_without(snapshot: Snapshot, workers: int) -> None:
    pool = load_pool(snapshot)
    shares = _shares(pool, workers)
    assert len(shares) == min(workers, len(SIZES))
    assert sorted(number for share in shares for number in share) == list(range(len(SIZES)))
    held = [sum(len(pool.order[number]) for number in share) for share in shares]
    assert max(held) - min(held) <= max(SIZES)


def require_exact(found: Candidates, scores: NDArray[np.float32]) -> None:
    """Full lists with the scores of exact search, and in its order."""
    assert found.index.shape == (Q, K)
    assert np.array_equal(found.score, np.take_along_axis(scores, found.index, axis=1))
    for index, score in zip(found.index, found.score, strict=True):
        assert len(set(index)) == K
        assert np.array_equal(np.lexsort((index, -score)), np.arange(K))


def test_an_index_is_kept_until_the_set_is_another(
    make_crew: Crews, two: Crew, snapshot: Snapshot, plain: Plain, tmp_path: Path
) -> None:
    """What it finds has exact scores; which of those that tie for the last place it finds is its own affair."""
    folder, scores = tmp_path / "index", plain.queries @ plain.items.T
    two.use_index(INDEX, folder, index_identity(snapshot))
    found = two.search(plain.queries, K)
    require_exact(found, scores)
    assert (found.score <= plain.candidates.score).all()
    assert (found.score < plain.candidates.score).any()  # one list of four is searched
    require_same(two.search_exactly(plain.queries, K), plain.candidates)

    every = INDEX.model_copy(update={"search": "nprobe=4"})
    kept = (folder / "index.faiss").stat()
    two.use_index(every, folder, index_identity(snapshot))
    assert (folder / "index.faiss").stat().st_mtime_ns == kept.st_mtime_ns
    found = two.search(plain.queries, K)
    require_exact(found, scores)
    assert np.array_equal(found.score, plain.candidates.score)
    two._index = None

    store = FeatureStore(shutil.copytree(snapshot.url, tmp_path / "set"))
    leaving = [source for source in snapshot.sources().values() if source.id == "v00"]
    after = store.commit(snapshot.fingerprint, Change(gone=leaving), {})
    assert load_pool(snapshot).ids[0].as_py() == "v00"
    made = make_crew(1, of=after)
    made.use_index(every, folder, index_identity(after))
    assert (folder / "index.faiss").stat().st_mtime_ns != kept.st_mtime_ns
    found = made.search(plain.queries, K)
    require_exact(found, scores[:, 1:])
    assert np.array_equal(found.score, coarse.search(plain.queries, plain.items[1:], K).score)
    end(made)


def test_a_worker_that_is_killed_comes_back(two: Crew, plain: Plain) -> None:
    for worker in two._workers:
        ray.kill(worker, no_restart=False)
    require_same(two.search(plain.queries, K), plain.candidates)


def test_a_worker_that_dies_in_the_middle_of_its_shards_scores_them_again(
    two: Crew, plain: Plain, tmp_path: Path
) -> None:
    mark = str(tmp_path / "died")

    def die(name: str, number: int) -> None:
        """The first worker that has scored a shard dies of it."""
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    require_fused(two, plain, SimpleNamespace(add=SimpleNamespace(remote=die)))
    assert Path(mark).exists()
