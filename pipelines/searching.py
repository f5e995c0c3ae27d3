"""Both stages spread over the cluster: every worker searches and reranks the shards that are its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import ray
import torch
from numpy.typing import NDArray
from pydantic import Field
from ray.exceptions import GetTimeoutError

from mgvr_core.config import Section
from mgvr_core.errors import JobError, MgvrError
from mgvr_core.features.schema import shape_of
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.retrieval.certify import Promising, together
from mgvr_core.retrieval.coarse import Candidates, Standing, merge
from mgvr_core.retrieval.index import IndexConfig, build, load, save, search
from mgvr_core.retrieval.part import Pairs, Part
from mgvr_core.retrieval.rerank import Reranker
from pipelines.models import ComputeConfig
from pipelines.pool import Pool
from pipelines.runtime import available_cores, cluster_cpus

_RETRIES = 3
"""A worker whose machine goes reads its shards again on another."""


class SearchConfig(Section):
    """How the search is spread."""

    workers: int | None = Field(
        None, gt=0, description="processes that search, each its own shards; none: one for every `threads` cores"
    )
    threads: int = Field(1, gt=0, description="CPU threads of each")
    memory_gb: float = Field(
        2.0, ge=0, description="coarse vectors that each keeps in memory; what is beyond is read again for every block"
    )
    index: IndexConfig | None = Field(
        None, description="an approximate index for stage 1, kept in OUT/index; none: exact inner products"
    )
    queries_at_once: int = Field(
        16384, gt=0, description="distinct texts of a block: the features are read once a block, and a kill costs one"
    )

    def require_room(self, gpus: int) -> None:
        """Raise MgvrError where the connected cluster can never hold the workers."""
        if gpus:
            return  # GPU nodes may still be coming
        nodes: list[Any] = ray.nodes()  # type: ignore[no-untyped-call]
        cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
        room = sum(number // self.threads for number in cpus)
        if self.worker_count(gpus) > room:
            raise MgvrError(
                f"search.workers {self.worker_count(gpus)} with search.threads {self.threads} do not fit the cluster, "
                f"whose nodes have {', '.join(map(str, cpus))} CPUs: room for {room} such workers"
            )

    def worker_count(self, gpus: int) -> int:
        """Processes on the connected cluster."""
        if self.workers is not None:
            return self.workers
        if gpus:
            return max(1, int(ray.cluster_resources().get("GPU", 1)))  # type: ignore[no-untyped-call]
        # A small machine has more logical CPUs than cores (runtime.cluster).
        cores = available_cores() if len(ray.nodes()) == 1 else cluster_cpus()  # type: ignore[no-untyped-call]
        return max(1, cores // self.threads)


class Crew:
    """The workers that hold a pool."""

    def __init__(
        self, snapshot: Snapshot, pool: Pool, config: SearchConfig, compute: ComputeConfig, patience_s: float = 1800
    ) -> None:
        """Start them; raises MgvrError where the cluster has no room for them, JobError where it has none in time."""
        config.require_room(compute.gpus)
        self._patience = patience_s
        shards = _shares(pool, config.worker_count(compute.gpus))
        options = {
            "num_cpus": 0 if compute.gpus else config.threads,
            "num_gpus": compute.gpus,
            "max_restarts": _RETRIES,
            "max_task_retries": _RETRIES,
        }
        self._snapshot, self._options, self._threads = ray.put(snapshot), options, config.threads
        keep = int(config.memory_gb * 2**30)
        self._pool = pool
        self._workers = [
            _Worker.options(**options).remote(  # type: ignore[attr-defined]
                self._snapshot,
                {number: pool.order[number] for number in share},
                keep,
                compute.torch_device().type,
                config.threads,
            )
            for share in shards
        ]
        self._index: Any = None
        self._await([worker.ready.remote() for worker in self._workers])
        self._owner = {number: worker for worker, share in enumerate(shards) for number in share}

    def _await(self, ready: list[Any]) -> None:
        try:
            ray.get(ready, timeout=self._patience)
        except GetTimeoutError:
            raise JobError(
                f"the {len(self._workers)} workers of the search did not all start within {self._patience} s: the "
                "cluster is busy, or too small for them. Set fewer search.workers or search.threads"
            ) from None

    def use_index(self, config: IndexConfig, folder: Path, identity: dict[str, Any]) -> None:
        """Search by an approximate index from now on: that of the folder, or one that is built and kept there."""
        # The workers hold every core, or every GPU, and rest while the index is searched: it must not wait for one.
        options = {**self._options, "num_cpus": 0, "num_gpus": 0}
        self._index = _Indexed.options(**options).remote(  # type: ignore[attr-defined]
            self._snapshot, self._pool.order, self._threads, config, str(folder), identity
        )
        ray.get(self._index.prepare.remote())

    def search(self, queries: NDArray[np.float32], k: int) -> Candidates:
        """Stage 1: queries t^ W (Q, D) -> the k best videos of the pool, by their places in the order of ids.

        What an approximate index finds has its exact scores, and is in their order.
        """
        if self._index is None:
            return self.search_exactly(queries, k)
        index: NDArray[np.int64] = ray.get(self._index.search.remote(ray.put(queries), k))
        return merge([Candidates(index, self.coarse_scores(queries, index))], k)

    def coarse_scores(self, queries: NDArray[np.float32], index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Exact coarse scores of some videos of each query: t^ W (Q, D), (Q, k) places -> (Q, k)."""
        asked = ray.put(queries)
        query, video = np.repeat(np.arange(len(index)), index.shape[1]), index.reshape(-1)
        score = np.empty(index.size, np.float32)
        for mine, values in self._each(video, query, lambda worker, pairs: worker.inner.remote(asked, pairs)):
            score[mine] = values
        return score.reshape(index.shape)

    def search_exactly(self, queries: NDArray[np.float32], k: int) -> Candidates:
        """Stage 1 without the index."""
        asked = ray.put(queries)
        found = [worker.search.remote(asked, k) for worker in self._workers]
        while len(found) > 1:  # a tree: no process, the driver least of all, holds more than two lists
            pairs = [found[at : at + 2] for at in range(0, len(found), 2)]
            found = [_merge.remote(k, *pair) if len(pair) > 1 else pair[0] for pair in pairs]
        candidates: Candidates = ray.get(found[0])
        return candidates

    def standing(self, queries: NDArray[np.float32], truth: NDArray[np.float32]) -> Standing:
        """`coarse.standing` over the whole pool: queries (M, D), truth (M,)."""
        asked = ray.put(queries)
        first, *rest = ray.get([worker.standing.remote(asked, truth) for worker in self._workers])
        total: Standing = sum(rest, start=first)
        return total

    def vectors(self, video: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
        """Coarse vectors of some videos: (n,) -> (n, D)."""
        vectors = np.empty((len(video), dim), np.float32)
        for mine, values in self._each(video, None, lambda worker, rows: worker.coarse.remote(rows)):
            vectors[mine] = values
        return vectors

    def rerank(
        self,
        reranker: Reranker,
        text: NDArray[np.float32],
        query: NDArray[np.int64],
        video: NDArray[np.int64],
        counter: Any,
    ) -> dict[str, NDArray[np.float32]]:
        """Stage 2: scores of (query, video) pairs, rows (M,) of `text` (T, D) and of the pool: name -> (M,).

        Every worker reads each of its shards once, and scores all pairs that it holds.
        """
        given = counter, ray.put(reranker), ray.put(text)
        scores = {name: np.empty(len(query), np.float32) for name in [*reranker.weights.active, "fused"]}
        for mine, found in self._each(video, query, lambda worker, pairs: worker.count.remote(*given, pairs)):
            for name, values in found.items():
                scores[name][mine] = values
        return scores

    def promising(
        self,
        reranker: Reranker,
        text: NDArray[np.float32],
        known: NDArray[np.int64],
        floor: NDArray[np.float32],
        room: int,
    ) -> Promising:
        """`certify.find_promising` over the whole pool: text (Q, D), known (Q, k), floor (Q,)."""
        given = [ray.put(value) for value in (reranker, text, known, floor)]
        return together(ray.get([worker.promising.remote(*given, room) for worker in self._workers]), room)

    def _each(
        self, video: NDArray[np.int64], query: NDArray[np.int64] | None, ask: Callable[[Any, dict[int, Any]], Any]
    ) -> Iterator[tuple[NDArray[np.int64], Any]]:
        """Ask the workers about videos (M,), each about those of its shards, and yield what they say as they say it.

        `ask` is given a worker and, by shard, rows of the shard, or with queries (M,) pairs of query and row. What is
        yielded is which of the M a shard holds, and the answer for them.
        """
        members = dict(self._pool.by_shard(video))
        shares: dict[int, dict[int, Any]] = {}
        for number, mine in members.items():
            row = self._pool.row[video[mine]]
            shares.setdefault(self._owner[number], {})[number] = row if query is None else (query[mine], row)
        waiting = [ask(self._workers[owner], share) for owner, share in sorted(shares.items())]
        while waiting:
            (done,), waiting = ray.wait(waiting)
            for number, answer in ray.get(done).items():
                yield members[number], answer


@ray.remote
class _Worker(Part):
    """A `Part` in a process of its own."""

    def __init__(
        self, snapshot: Snapshot, order: dict[int, NDArray[np.int64]], keep: int, device: str, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)
        super().__init__(snapshot, order, keep, device)

    def ready(self) -> None:
        """Once the process is up."""

    def count(
        self, counter: Any, reranker: Reranker, text: NDArray[np.float32], pairs: Pairs
    ) -> dict[int, dict[str, NDArray[np.float32]]]:
        """`rerank`, and tell a counter how far it is."""
        return self.rerank(reranker, text, pairs, lambda number: counter.add.remote("pairs", number))


@ray.remote
class _Indexed:
    """An approximate index over all shards, in a process of its own."""

    def __init__(
        self,
        snapshot: Snapshot,
        order: dict[int, NDArray[np.int64]],
        threads: int,
        config: IndexConfig,
        folder: str,
        identity: dict[str, Any],
    ) -> None:
        faiss.omp_set_num_threads(threads)
        self._snapshot, self._config, self._folder, self._identity = snapshot, config, Path(folder), identity
        self._part = Part(snapshot, order, keep_bytes=0)
        self._order = np.concatenate([order[number] for number in sorted(order)])

    def prepare(self) -> None:
        """Load the index, or build it; raises MgvrError where it can't be built of these videos."""
        try:
            self._index = load(self._folder, self._config, self._identity)
        except MgvrError:  # none, or of other features: this one takes its place
            blocks = lambda: (block.video for block in self._part.blocks())  # noqa: E731
            self._index = build(self._config, blocks, len(self._order), shape_of(self._snapshot.schema()).dim)
            self._folder.mkdir(parents=True, exist_ok=True)
            save(self._index, self._folder, self._identity)

    def search(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self._order[search(self._index, queries, k).index]
        return found


@ray.remote(num_cpus=0)
def _merge(k: int, *parts: Candidates) -> Candidates:
    return merge(parts, k)


def _shares(pool: Pool, workers: int) -> list[list[int]]:
    """Shards by worker, so that each has about as many videos; not more workers than shards."""
    shares: list[list[int]] = [[] for _ in range(min(workers, len(pool.order)))]
    held = [0] * len(shares)
    for number in sorted(pool.order, key=lambda number: (-len(pool.order[number]), number)):
        least = held.index(min(held))
        shares[least].append(number)
        held[least] += len(pool.order[number])
    return [sorted(share) for share in shares]
