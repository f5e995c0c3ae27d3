"""Queries' texts to vectors, by Ray Data: each distinct text once, and only what an earlier run has not finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy

from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.model.tokenizer import split_words, tokenizer_of
from pipelines.models import ComputeConfig, text_vectors
from pipelines.rows import Column, Rows

FloatArray = NDArray[np.float32]

TEXT_BLOCK = 4096
"""Texts that are finished at once."""
_BATCH = 256
"""Texts that go through the text tower at once."""


def text_columns(dim: int) -> dict[str, Column]:
    """What becomes of a text: its unit vector, whether it is longer than the model reads, unknown words and words."""
    return {
        "vector": (np.float32, (dim,)),
        "truncated": (np.bool_, ()),
        "unknown": (np.int64, ()),  # of a closed vocabulary
        "words": (np.int64, ()),
    }


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


def encode_texts(texts: Sequence[str], model: ModelConfig, compute: ComputeConfig, rows: Rows, counter: Any) -> None:
    """Encode distinct texts into their rows (`text_columns`), as far as that is not done."""
    counter.add.remote("encoded", rows.finished)
    counter.add.remote("resumed", rows.finished)
    for block, columns in encoded_blocks(texts, list(rows.unfinished()), model, compute, counter):
        rows.finish(block, columns)


def encode_at_once(texts: Sequence[str], model: ModelConfig, compute: ComputeConfig, counter: Any) -> FloatArray:
    """The unit vectors (T, D) of texts that fit in memory."""
    blocks = [slice(begin, min(begin + TEXT_BLOCK, len(texts))) for begin in range(0, len(texts), TEXT_BLOCK)]
    found = {
        block.start: columns["vector"] for block, columns in encoded_blocks(texts, blocks, model, compute, counter)
    }
    return np.concatenate([found[block.start] for block in blocks])


def encoded_blocks(
    texts: Sequence[str], blocks: Sequence[slice], model: ModelConfig, compute: ComputeConfig, counter: Any
) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:
    """Blocks of texts, each of which begins at a multiple of TEXT_BLOCK, as they are finished: `text_columns`."""
    waiting = {block.start: _Filling(block) for block in blocks}
    batches = [
        pa.table({"index": range(begin, end), "text": texts[begin:end]})
        for block in blocks
        for begin in range(block.start, block.stop, _BATCH)
        for end in (min(begin + _BATCH, block.stop),)
    ]
    if not batches:
        return
    encoded = ray.data.from_arrow(batches).map_batches(
        EncodeTexts,
        fn_constructor_args=(model, compute),
        batch_size=_BATCH,
        compute=ActorPoolStrategy(size=compute.workers),
        num_gpus=compute.gpus,
    )
    for batch in encoded.iter_batches(batch_size=None):  # in whatever order they come
        counter.add.remote("encoded", len(batch["index"]))
        starts = batch["index"] // TEXT_BLOCK * TEXT_BLOCK
        for begin in np.unique(starts).tolist():
            mine = starts == begin
            if waiting[begin].add({name: values[mine] for name, values in batch.items()}):
                yield waiting[begin].block, waiting.pop(begin).columns()


class _Filling:
    """A block of texts whose batches are coming in."""

    def __init__(self, block: slice) -> None:
        self.block = block
        self._batches: list[dict[str, NDArray[Any]]] = []

    def add(self, batch: dict[str, NDArray[Any]]) -> bool:
        """Whether the block is now whole."""
        self._batches.append(batch)
        here = sum(len(batch["index"]) for batch in self._batches)
        return bool(here == self.block.stop - self.block.start)

    def columns(self) -> dict[str, NDArray[Any]]:
        order = np.argsort(np.concatenate([batch["index"] for batch in self._batches]))
        return {name: np.concatenate([batch[name] for batch in self._batches])[order] for name in self._batches[0]}
