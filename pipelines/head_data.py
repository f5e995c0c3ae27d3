"""What a scorer is trained on: captions and stored features as arrays on disk, memory-mapped by the workers.

    DATA/texts-<key>/    vector.npy and, for a scorer that reads words, words.npy and word_mask.npy: a row a caption
    DATA/videos-<key>/   mask.npy and what the scorer reads of video, frames, temporal and patches: a row a video

Captions are encoded once, by the frozen text tower. A file of that name is whole, so that several runs may share them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy
from torch import Tensor

from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.files import placing
from mgvr_core.identity import Fingerprint, hash_json, hash_lines
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.model.tokenizer import tokenizer_of
from mgvr_core.scorers.scorer import Read, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.training.pairs import Captioned
from pipelines.models import DeviceConfig, text_vectors
from pipelines.progress import progress

_BATCH = 256
"""Captions that go through the text tower at once."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Listed:
    """The captioned videos of a manifest that a feature set holds."""

    captioned: Captioned
    """By their ids in the set."""
    rows: Indices
    """(videos,) the row of each among all of the set."""
    contents: dict[str, str]
    """id -> content hash of those videos."""
    missing: tuple[str, ...]
    """Uris of videos that the set does not hold."""

    def digest(self) -> str:
        """Tells two of them apart: captions, and what the videos hold."""
        return hash_json([self.captioned.digest(), sorted(self.contents.items())])


def list_videos(snapshot: Snapshot, videos: pa.Table) -> Listed:
    """Find a manifest's videos in a set, by id or else by uri and segment."""
    held: dict[str, tuple[int, str]] = {}
    for table in snapshot.tables(["id", "content_hash"]):
        for name, digest in zip(table["id"].to_pylist(), table["content_hash"].to_pylist(), strict=True):
            held[name] = (len(held), digest)
    by_place = {(key.uri, key.start, key.end): source.id for key, source in snapshot.sources().items()}
    found: dict[str, list[str]] = {}
    missing = []
    for row in videos.to_pylist():
        name = row["id"] if row["id"] in held else by_place.get((row["uri"], row["start"], row["end"]))
        if name is None or name not in held:
            missing.append(row["uri"])
            continue
        # Copies of one video are one row of the set: their captions are put together.
        found[name] = list(dict.fromkeys([*found.get(name, []), *row["captions"]]))
    captioned = Captioned.of(found.items())
    rows = np.array([held[name][0] for name in captioned.ids], np.int64)
    return Listed(captioned, rows, {name: held[name][1] for name in captioned.ids}, tuple(missing))


@dataclass(frozen=True)
class HeadSplit:
    """Captioned videos, and the arrays that hold them."""

    captioned: Captioned
    video_rows: Indices
    """(videos,) rows of the columns."""
    text_rows: Indices
    """(captions,) rows of the texts."""
    columns: dict[str, str]
    """Column -> file, a row a video of the set."""
    texts: dict[str, str]
    """vector, words, word_mask -> file, a row a distinct caption."""


class Arrays:
    """A split, opened."""

    def __init__(self, split: HeadSplit, device: torch.device) -> None:
        self._split, self._device = split, device
        self._columns = {name: np.load(path, mmap_mode="r") for name, path in split.columns.items()}
        self._texts = {name: np.load(path, mmap_mode="r") for name, path in split.texts.items()}

    def texts(self, captions: Indices) -> Texts:
        """Some captions of the split, by their rows, in fp32."""
        rows = self._split.text_rows[captions]
        read = {name: torch.from_numpy(values[rows]).to(self._device) for name, values in self._texts.items()}
        return Texts(read["vector"], read.get("words"), read.get("word_mask"))

    def videos(self, videos: Indices) -> VideoFeatures:
        """Some videos of the split, by their rows, in fp32; what the scorer does not read has no dimensions."""
        rows = self._split.video_rows[videos]
        read = {name: torch.from_numpy(values[rows]).to(self._device) for name, values in self._columns.items()}
        mask = read.pop("mask").bool()
        nothing = torch.zeros(*mask.shape, 0, device=self._device)  # (V, F, 0)

        def unit(name: str) -> Tensor:
            return read[name].float() if name in read else nothing

        patches = read["patches"].float() if "patches" in read else None
        return VideoFeatures(read["video"].float(), unit("frames"), unit("temporal"), patches, mask)

    def pairs(self, captions: Indices) -> tuple[Texts, VideoFeatures]:
        """Some captions, each with its video."""
        return self.texts(captions), self.videos(self._split.captioned.owner[captions])


def prepare(
    listed: Sequence[tuple[Listed, Snapshot]],
    reads: frozenset[Read],
    sizes: Sizes,
    model: ModelConfig,
    made_by: Fingerprint,
    compute: DeviceConfig,
    folder: Path,
) -> list[HeadSplit]:
    """Write the arrays of some splits below `folder`, or find them there. Needs a Ray connection."""
    captions = list(dict.fromkeys(text for each, _ in listed for text in each.captioned.captions))
    texts = encode_captions(captions, "words" in reads, sizes, model, made_by, compute, folder)
    place = {text: row for row, text in enumerate(captions)}
    splits = []
    for each, snapshot in listed:
        text_rows = np.array([place[text] for text in each.captioned.captions], np.int64)
        columns = _unpack_columns(snapshot, ["video", *sorted(reads - {"words", "video"}), "mask"], folder)
        splits.append(HeadSplit(each.captioned, each.rows, text_rows, columns, texts))
    return splits


def _unpack_columns(snapshot: Snapshot, columns: Iterable[str], folder: Path) -> dict[str, str]:
    """Column -> file (rows, …) in the set's own dtype."""
    key = hash_json([[shard.path, shard.sha256, list(shard.removed)] for shard in snapshot.shards])[:16]
    paths = {column: folder / f"videos-{key}" / f"{column}.npy" for column in columns}
    waiting = {column: path for column, path in paths.items() if not path.exists()}
    if waiting:
        with progress("unpack", len(waiting) * len(snapshot.shards), "shards") as counter:
            ray.get([_unpack.remote(snapshot, column, path, counter) for column, path in waiting.items()])
    return {column: str(path) for column, path in paths.items()}


@ray.remote
def _unpack(snapshot: Snapshot, column: str, path: Path, counter: Any) -> None:
    array, begin = None, 0
    with placing(path) as partial:
        for table in snapshot.tables([column]):
            values = tensor_column(table, column)
            if array is None:
                array = open_memmap(partial, "w+", dtype=values.dtype, shape=(snapshot.rows, *values.shape[1:]))
            array[begin : begin + len(values)] = values
            begin += len(values)
            counter.add.remote("shards", 1)
        assert array is not None  # a set without a video was refused
        array.flush()


class EncodeWords:
    """Rows of (index, text) -> their vectors and, where asked for, those of their words."""

    def __init__(self, model: ModelConfig, compute: DeviceConfig, words: bool) -> None:
        self._device, self._words = compute.torch_device(), words
        torch.set_num_threads(compute.thread_count(1))
        self._model = load_model(model).model.to(self._device)
        self._tokenizer = tokenizer_of(self._model.spec)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        texts = [str(text) for text in batch["text"]]
        ids = self._tokenizer(texts, self._model.spec.text_length).ids.to(self._device)
        if not self._words:
            return {"index": batch["index"], "vector": text_vectors(self._model, ids).cpu().numpy()}
        with torch.inference_mode():
            found = self._model.encode_words(ids)
        named = zip(("vector", "words", "word_mask"), found, strict=True)
        return {"index": batch["index"], **{name: values.cpu().numpy() for name, values in named}}


def encode_captions(
    captions: Sequence[str],
    words: bool,
    sizes: Sizes,
    model: ModelConfig,
    made_by: Fingerprint,
    compute: DeviceConfig,
    folder: Path,
) -> dict[str, str]:
    """Encode distinct captions below `folder`, or find them there: array -> file (captions, …).

    All are in fp32 but the mask of the words. sizes: the most words and the dimensions; words: whether a vector of
    every word is kept. Needs a Ray connection.
    """
    T, L, D = len(captions), sizes.words, sizes.dim
    place = folder / f"texts-{hash_lines(dict(made_by.parts), L, iter(captions))[:16]}"
    kinds: dict[str, tuple[Any, tuple[int, ...]]] = {"vector": (np.float32, (T, D))}
    if words:
        kinds |= {"words": (np.float32, (T, L, D)), "word_mask": (np.bool_, (T, L))}
    paths = {name: place / f"{name}.npy" for name in kinds}
    if all(path.exists() for path in paths.values()):
        return {name: str(path) for name, path in paths.items()}
    batches = [
        pa.table({"index": range(begin, min(begin + _BATCH, T)), "text": captions[begin : begin + _BATCH]})
        for begin in range(0, T, _BATCH)
    ]
    encoded = ray.data.from_arrow(batches).map_batches(
        EncodeWords,
        fn_constructor_args=(model, compute, words),
        batch_size=_BATCH,
        compute=ActorPoolStrategy(size=1),
        num_gpus=compute.gpus,
    )
    with ExitStack() as stack:
        partial = {name: stack.enter_context(placing(path)) for name, path in paths.items()}
        arrays = {name: open_memmap(partial[name], "w+", kind, shape) for name, (kind, shape) in kinds.items()}
        counter = stack.enter_context(progress("encode texts", T, "encoded"))
        for batch in encoded.iter_batches(batch_size=None):  # in whatever order they come
            for name, array in arrays.items():
                array[batch["index"]] = batch[name]
            counter.add.remote("encoded", len(batch["index"]))
        for array in arrays.values():
            array.flush()
    return {name: str(path) for name, path in paths.items()}
