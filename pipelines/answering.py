"""The stages of the retrieve job: texts to vectors, videos' coarse vectors, and the rerank of one shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy

from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.model.tokenizer import split_words, tokenizer_of
from mgvr_core.retrieval.coarse import Candidates
from mgvr_core.retrieval.rerank import Reranker, score_pairs
from pipelines.models import ComputeConfig, text_vectors
from pipelines.progress import progress

_TEXT_BLOCK = 256
"""Captions that go through the text tower at once."""


@dataclass(frozen=True)
class Texts:
    """Distinct texts and what became of them."""

    vectors: NDArray[np.float32]
    """(T, D) of unit length."""
    truncated: NDArray[np.bool_]
    """(T,) longer than the model's text length."""
    unknown: NDArray[np.int64]
    """(T,) words that a closed vocabulary lacks."""
    words: NDArray[np.int64]
    """(T,) words."""


@dataclass(frozen=True)
class Pool:
    """All videos of a snapshot in the order of their ids, with what stage 1 and a reader need of them."""

    ids: list[str]
    uris: list[str]
    video: NDArray[np.float32]
    """(N, D) coarse vectors."""
    shard: NDArray[np.int64]
    """(N,) which shard of the snapshot holds the video."""
    row: NDArray[np.int64]
    """(N,) and in which row."""


class EncodeTexts:
    """Rows of (index, text) -> their vectors."""

    def __init__(self, model: ModelConfig, compute: ComputeConfig) -> None:
        self._device = compute.torch_device()
        torch.set_num_threads(compute.thread_count(compute.workers))
        self._model = load_model(model).model.to(self._device)
        self._tokenizer = tokenizer_of(self._model.spec)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        texts = [str(text) for text in batch["text"]]
        tokens = self._tokenizer(texts, self._model.spec.text_length)
        return {
            "index": batch["index"],
            "vector": text_vectors(self._model, tokens.ids.to(self._device)).cpu().numpy(),
            "truncated": tokens.truncated.numpy(),
            "unknown": tokens.unknown.numpy(),
            "words": np.array([len(split_words(text)) for text in texts]),
        }


def encode_texts(texts: Sequence[str], model: ModelConfig, compute: ComputeConfig, counter: Any) -> Texts:
    """Encode distinct texts by Ray Data; the result is in the order of `texts`."""
    blocks = [
        pa.table(
            {"index": range(begin, min(begin + _TEXT_BLOCK, len(texts))), "text": texts[begin : begin + _TEXT_BLOCK]}
        )
        for begin in range(0, len(texts), _TEXT_BLOCK)
    ]
    encoded = ray.data.from_arrow(blocks).map_batches(
        EncodeTexts,
        fn_constructor_args=(model, compute),
        batch_size=_TEXT_BLOCK,
        compute=ActorPoolStrategy(size=compute.workers),
        num_gpus=compute.gpus,
    )
    batches = []
    for batch in encoded.iter_batches(batch_size=None):
        counter.add.remote("encoded", len(batch["index"]))
        batches.append(batch)
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    order = np.argsort(columns["index"])
    return Texts(*(columns[name][order] for name in ("vector", "truncated", "unknown", "words")))


def load_pool(snapshot: Snapshot) -> Pool:
    """The coarse vectors of a snapshot, shard by shard, then put in the order of ids."""
    ids: list[str] = []
    vectors, shards, rows = [], [], []
    for number, table in enumerate(snapshot.tables(["id", "video"])):
        ids += table["id"].to_pylist()
        vectors.append(tensor_column(table, "video").astype(np.float32))
        shards.append(np.full(table.num_rows, number))
        rows.append(np.arange(table.num_rows))
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return Pool(
        ids=[ids[place] for place in order],
        # A shard knows where its videos lay when they were encoded, the snapshot where they lie.
        uris=[snapshot.uris[ids[place]][0] for place in order],
        video=np.concatenate(vectors)[order],
        shard=np.concatenate(shards)[order],
        row=np.concatenate(rows)[order],
    )


def rerank(
    snapshot: Snapshot,
    pool: Pool,
    reranker: Reranker,
    texts: Texts,
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> dict[str, NDArray[np.float32]]:
    """Scores of (text, video) pairs, both (M,) rows of `texts` and `pool`: name -> (M,).

    Grouped by the shard that holds the video, so that every shard is read once, by one task.
    """
    text, video = pairs
    shard = pool.shard[video]
    vectors = ray.put(texts.vectors)
    members = {int(number): np.flatnonzero(shard == number) for number in np.unique(shard)}
    tasks = {
        _rerank_shard.remote(snapshot, number, reranker, vectors, text[mine], pool.row[video[mine]]): mine
        for number, mine in members.items()
    }
    names = [*reranker.weights.active, "fused"]
    scores = {name: np.empty(len(text), np.float32) for name in names}
    waiting = list(tasks)
    with progress("rerank", len(text), "pairs") as counter:
        while waiting:
            (done,), waiting = ray.wait(waiting)
            for name, values in ray.get(done).items():
                scores[name][tasks[done]] = values
            counter.add.remote("pairs", len(tasks[done]))
    return scores


@ray.remote
def _rerank_shard(
    snapshot: Snapshot,
    number: int,
    reranker: Reranker,
    vectors: NDArray[np.float32],
    text: NDArray[np.int64],
    row: NDArray[np.int64],
) -> dict[str, NDArray[np.float32]]:
    table = snapshot.read_shard(snapshot.shards[number], reranker.columns)
    with torch.inference_mode():
        # The object store hands out read-only memory, which torch would warn about.
        return score_pairs(reranker, torch.from_numpy(vectors.copy()), table, text, row)


def candidate_pairs(candidates: Candidates) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(query, item) of every candidate, row by row: both (Q * k,)."""
    Q, k = candidates.index.shape
    return np.repeat(np.arange(Q), k), candidates.index.reshape(-1)
