"""Two stages over up to a million videos: time and memory over both sizes, and the Ray job against one plain process.

The sets are made by procedural_set.py, once, below MGVR_BENCH_DATA (by default a temporary folder); the sizes are those
of MGVR_BENCH_VIDEOS and MGVR_BENCH_QUERIES: 10000 and 100000, and 100, 1000 and 10000 where they are not set. A million
videos are 6.3 GB, and take some minutes to make. MGVR_BENCH_PLOT: a file for a picture of the runs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from machine import best_of, machine_rate
from procedural_set import D, F, make, queries_of
from scale_plot import Point, draw

from mgvr_core.features.snapshot import Snapshot
from mgvr_core.retrieval.part import Part
from mgvr_core.retrieval.rerank import Reranker
from mgvr_core.retrieval.two_stage import reranked
from mgvr_core.scoring.fusion import FusionWeights
from pipelines.answering import answer_texts, candidate_pairs, opened
from pipelines.answers import Answers, Queries
from pipelines.models import ComputeConfig
from pipelines.pool import load_pool
from pipelines.progress import Silent
from pipelines.runtime import RayConfig, Stopwatch, cluster
from pipelines.searching import Crew, SearchConfig

K = 50
VIDEOS = [int(number) for number in os.environ.get("MGVR_BENCH_VIDEOS", "10000 100000").split()]
QUERIES = [int(number) for number in os.environ.get("MGVR_BENCH_QUERIES", "100 1000 10000").split()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("MGVR_BENCH_DATA")
    return Path(kept) if kept else tmp_path_factory.mktemp("scale")


@pytest.fixture(scope="module")
def points() -> Iterator[list[Point]]:
    """The runs, drawn at the end where MGVR_BENCH_PLOT names a file."""
    runs: list[Point] = []
    yield runs
    if (file := os.environ.get("MGVR_BENCH_PLOT")) and runs:
        Path(file).write_text(draw(runs), encoding="utf-8")


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    with cluster(RayConfig()):
        yield


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """GB of the machine's memory that the block takes at most; what a cache would give back is not counted."""
    peak, done = [0.0], threading.Event()
    before = _available()

    def watch() -> None:
        while not done.wait(0.2):
            peak[0] = max(peak[0], (before - _available()) / 1e9)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def _available() -> int:
    fields = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return next(int(words[1]) * 1024 for words in fields if words[0] == "MemAvailable:")


def reranker() -> Reranker:
    generator = torch.Generator().manual_seed(1)
    return Reranker(FusionWeights(), torch.eye(D), torch.eye(F) + 0.01 * torch.randn(F, F, generator=generator))


def prepared(folder: Path, snapshot: Snapshot, text: np.ndarray) -> Answers:
    """The job's state once its texts are encoded."""
    names = [f"text {row:08d}" for row in range(len(text))]
    nothing = np.zeros(0, np.int64)
    queries = Queries(names, names, np.arange(len(names)), [[] for _ in names], nothing)
    at_once = SearchConfig().queries_at_once
    answers = opened(folder / "texts", folder, queries, load_pool(snapshot), reranker(), K, at_once, None)
    for block in answers.texts.unfinished():
        zeros = np.zeros(block.stop - block.start, np.int64)
        values = {"vector": text[block], "truncated": zeros, "unknown": zeros, "words": zeros}
        answers.texts.finish(block, values)
    return answers


def in_one_process(snapshot: Snapshot, text: np.ndarray) -> tuple[np.ndarray, float]:
    """The same work without Ray: its final lists, and its seconds."""
    scorer, threads = reranker(), torch.get_num_threads()
    torch.set_num_threads(2)
    faiss.omp_set_num_threads(2)
    began = time.perf_counter()
    pool = load_pool(snapshot)
    part = Part(snapshot, pool.order, keep_bytes=4 << 30)
    found = part.search(text, K)
    query, video = candidate_pairs(found)
    members = dict(pool.by_shard(video))
    pairs = {number: (query[mine], pool.row[video[mine]]) for number, mine in members.items()}
    fused = np.empty(len(query), np.float32)
    for number, scores in part.rerank(scorer, text, pairs).items():
        fused[members[number]] = scores["fused"]
    lists = reranked(found, fused.reshape(found.index.shape)).index
    seconds = time.perf_counter() - began
    torch.set_num_threads(threads)
    return lists, seconds


@pytest.mark.parametrize("Q", QUERIES)
@pytest.mark.parametrize("N", VIDEOS)
def test_time_and_memory(N: int, Q: int, data: Path, points: list[Point], ray_cluster: None, tmp_path: Path) -> None:
    snapshot = make(data / f"videos-{N}", N)
    text = queries_of(snapshot, Q)
    with peak_memory() as peak:
        watch = Stopwatch()
        with watch.stage("all"):
            answers = prepared(tmp_path, snapshot, text)
            with watch.stage("workers"):
                crew = Crew(snapshot, answers.pool, SearchConfig(), ComputeConfig())
            answer_texts(crew, reranker(), answers, None, watch, Silent())
    del crew
    first, second, total = (watch.seconds[name] for name in ("stage 1: search", "stage 2: rerank", "all"))
    points.append(Point(N, Q, total - watch.seconds["workers"], peak[0]))
    product = N * Q * D / machine_rate()
    print(
        f"\n{N} videos x {Q} queries: {total:.1f} s, of which stage 1 {first:.1f} s ({first / product:.2f} times the "
        f"product alone), stage 2 {second:.1f} s; {peak[0]:.1f} GB at most"
    )
    if (max(VIDEOS), max(QUERIES)) == (N, Q):
        lists, plain = in_one_process(snapshot, text)
        assert np.array_equal(lists, answers.ranking("fused").index)
        print(
            f"the Ray job took {total / plain:.2f} times as long as one plain process ({plain:.1f} s), id for id alike"
        )


def test_stage_one_against_faiss(data: Path) -> None:
    """One process and two threads each; reading, widening and merging are in our time, and not in that of faiss."""
    N, Q = max(number for number in VIDEOS if number <= 200_000), 4000
    snapshot = make(data / f"videos-{N}", N)
    text, pool, threads = queries_of(snapshot, Q), load_pool(snapshot), torch.get_num_threads()
    torch.set_num_threads(2)
    faiss.omp_set_num_threads(2)
    index = faiss.IndexFlatIP(D)
    for block in Part(snapshot, pool.order, keep_bytes=0).blocks():
        index.add(block.wide)
    theirs = best_of(lambda: index.search(text, K), 3)
    ours = best_of(lambda: Part(snapshot, pool.order, keep_bytes=0).search(text, K), 3)
    product = N * Q * D / machine_rate()
    torch.set_num_threads(threads)
    print(
        f"\nstage 1, {N} videos x {Q} texts, reading and merging included: {theirs / ours:.2f} of IndexFlatIP's rate, "
        f"{product / ours:.2f} of the machine's product ({product / theirs:.2f} is faiss's)"
    )
