"""What the cells of one model share, each made once: checkpoint, features in every code, texts, candidates, heads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import ray
import torch
from numpy.typing import NDArray

from mgvr_core.config import parse
from mgvr_core.datasets.manifest import CorpusConfig, list_videos
from mgvr_core.datasets.queries import QueriesConfig, read_queries
from mgvr_core.errors import MgvrError
from mgvr_core.features.schema import shape_of, tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import hash_json
from mgvr_core.model.eercf import EERCF
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.retrieval.coarse import Candidates, merge, search
from mgvr_core.retrieval.index import IndexConfig, build
from mgvr_core.retrieval.index import search as search_index
from mgvr_core.scorers.scorer import Sizes, Texts
from mgvr_core.scoring.video import project_text
from pipelines.answering import index_identity
from pipelines.answers import Queries
from pipelines.encode import EncodeConfig, encode
from pipelines.environment import computing_source, computing_versions
from pipelines.grid import NONE, Cell, GridConfig, ModelChoice
from pipelines.head_data import encode_captions
from pipelines.heads import HeadConfig, train_head
from pipelines.models import DeviceConfig, model_fingerprint, require_made_by
from pipelines.pool import Pool, load_pool
from pipelines.recoding import RecodeConfig, recode
from pipelines.train import TrainConfig, train
from pipelines.work import work_folder

_QUERIES = 256
"""Queries whose candidates' vectors are in memory at once."""


@dataclass(frozen=True)
class Inputs:
    """Of one model."""

    model: ModelConfig
    features: dict[str, str]
    """Codec -> the feature set, by its address."""
    texts: dict[str, str]
    """Files of `load_texts`."""
    candidates: dict[tuple[str, int], str]
    """(index, k) -> folder of `load_candidates`."""
    heads: dict[tuple[str, int], str]
    """(scorer, seed) -> folder of its trained weights."""


def corpus_of(config: GridConfig, split: str) -> CorpusConfig | None:
    """The videos of a split: `test` is what is searched."""
    if config.procedural is not None:
        return CorpusConfig(uri=str(Path(config.out).absolute() / "corpus" / f"{split}.jsonl"))
    return {"test": config.corpus, "train": config.training, "validation": config.validation}[split]


def queries_of(config: GridConfig) -> Queries:
    """The queries, and a bank drawn from the training videos' captions; raises MgvrError where nothing is right."""
    given = config.queries
    if config.procedural is not None:
        given = QueriesConfig(uri=str(Path(config.out).absolute() / "corpus" / "test-queries.jsonl"))
    assert given is not None
    training = corpus_of(config, "train")
    bank: list[str] = []
    if training is not None:
        captions = sorted({text for texts in list_videos(training)["captions"].to_pylist() for text in texts})
        drawn = np.random.default_rng(config.bank_seed).permutation(len(captions))[: config.bank]
        bank = [captions[row] for row in drawn]
    queries = Queries.from_table(read_queries(given), bank)
    if not queries.labelled.any():
        raise MgvrError(f"{given.uri} names no right videos, so nothing can be measured: give its `relevant` column")
    return queries


def prepare(config: GridConfig, name: str, cells: Iterable[Cell], queries: Queries) -> Inputs:
    """Make what some cells of one model need and has not been made; in a connected Ray."""
    mine, choice, out = list(cells), config.models[name], Path(config.out).absolute()
    model = _model(config, name, choice, out)
    plain = _features(config, choice, name, model, "test")
    require_made_by(plain, load_model(model))
    features = {NONE: plain.url}
    for codec in sorted({cell.codec for cell in mine} - {NONE}):
        code = config.codecs[codec].model_dump()
        target = str(out / "features" / f"{name}-{codec}-{hash_json([plain.fingerprint.digest, code])[:16]}")
        values = {"features": plain.url, "out": target, "codec": code}
        features[codec] = recode(parse(RecodeConfig, values, source=f"codec {codec} of the sweep")).url
    texts = _texts(out, model, queries.texts)
    # A search of its own for every k: how many it is asked for changes what an index finds, and its time.
    candidates = {
        (index, k): _candidates(out, model, texts, plain, config.indexes.get(index), k)
        for index, k in sorted({(cell.index, cell.k) for cell in mine if cell.k is not None})
    }
    return Inputs(model, features, texts, candidates, _heads(config, choice, name, model, mine, out))


def load_texts(files: dict[str, str]) -> Texts:
    """All distinct texts (T, …) of the queries and of the bank, mapped from disk."""
    read = {name: torch.from_numpy(np.load(file, mmap_mode="c")) for name, file in files.items()}
    return Texts(read["vector"], read["words"], read["word_mask"])


def load_candidates(folder: str) -> tuple[Candidates, float]:
    """The k best videos of every text, and the seconds that finding those of one text took, on one thread."""
    index, score, seconds = (np.load(Path(folder) / f"{name}.npy") for name in ("index", "score", "seconds"))
    return Candidates(index, score), float(seconds)


def check(config: GridConfig, cells: Iterable[Cell]) -> None:
    """Raise MgvrError for what the jobs that a sweep starts would refuse of their keys, before the first of them."""
    out, mine = Path(config.out).absolute(), list(cells)
    for name in {cell.model for cell in mine}:
        choice = config.models[name]
        model = choice.model or ModelConfig(checkpoint="to be trained")
        if choice.model is not None and choice.model.checkpoint and not Path(choice.model.checkpoint).exists():
            raise MgvrError(f"models.{name}.model.checkpoint: there is no file or folder {choice.model.checkpoint}")
        if choice.train is not None:
            _train_config(config, name, choice.train, out)
        if choice.features is None:
            _encode_config(config, choice, name, model, "test")
        for scorer, seed in _learned(cell for cell in mine if cell.model == name):
            _head_config(config, name, scorer, seed, "to be encoded", model, out)


def _model(config: GridConfig, name: str, choice: ModelChoice, out: Path) -> ModelConfig:
    if choice.model is not None:
        return choice.model
    assert choice.train is not None
    return ModelConfig(checkpoint=str(train(_train_config(config, name, choice.train, out))))


def _train_config(config: GridConfig, name: str, keys: dict[str, Any], out: Path) -> TrainConfig:
    splits = {split: corpus_of(config, split) for split in ("train", "validation")}
    if splits["train"] is None:
        raise MgvrError(f"models.{name}: it is trained, but there are no training videos: give training.uri")
    values = {
        "clips": {"folder": str(out / "clips")},
        **keys,
        "out": str(out / "models" / name),
        "corpus": splits["train"].model_dump(),
        "validation": None if splits["validation"] is None else splits["validation"].model_dump(),
        "restart": "changed",
    }
    return parse(TrainConfig, values, source=f"models.{name}.train of the sweep")


def _features(config: GridConfig, choice: ModelChoice, name: str, model: ModelConfig, split: str) -> Snapshot:
    """The features of the videos that are searched, or of the training videos."""
    given = choice.features if split == "test" else choice.training_features
    if given is not None:
        return FeatureStore(given).snapshot()
    return encode(_encode_config(config, choice, name, model, split))


def _encode_config(config: GridConfig, choice: ModelChoice, name: str, model: ModelConfig, split: str) -> EncodeConfig:
    corpus = corpus_of(config, split)
    assert corpus is not None
    values = {
        **choice.encode,
        "out": str(Path(config.out).absolute() / "features" / f"{name}-{split}-{{fingerprint}}"),
        "corpus": corpus.model_dump(),
        "model": model.model_dump(),
    }
    return parse(EncodeConfig, values, source=f"models.{name}.encode of the sweep")


def _learned(cells: Iterable[Cell]) -> list[tuple[str, int]]:
    return sorted({(cell.scorer, cell.seed) for cell in cells if cell.learned})


def _heads(
    config: GridConfig, choice: ModelChoice, name: str, model: ModelConfig, cells: list[Cell], out: Path
) -> dict[tuple[str, int], str]:
    """The learned scorers, trained on the features of the training videos."""
    wanted = _learned(cells)
    if not wanted:
        return {}
    features = _features(config, choice, name, model, "train").url
    return {
        (scorer, seed): str(train_head(_head_config(config, name, scorer, seed, features, model, out)))
        for scorer, seed in wanted
    }


def _head_config(
    config: GridConfig, name: str, scorer: str, seed: int, features: str, model: ModelConfig, out: Path
) -> HeadConfig:
    corpus = corpus_of(config, "train")
    assert corpus is not None  # a grid with learned scorers and without training videos was refused
    made_with = hash_json([computing_versions(), computing_source()])[:8]  # others train other weights
    values = {
        **config.heads,
        **config.head.get(scorer, {}),
        "out": str(out / "heads" / f"{name}-{scorer}-{seed}-{made_with}"),
        "data": str(out / "data"),
        "scorer": scorer,
        "features": features,
        "corpus": corpus.model_dump(),
        "model": model.model_dump(),
        "seed": seed,
        "restart": "changed",
    }
    return parse(HeadConfig, values, source=f"the head of {scorer} in the sweep")


def _once(out: Path, kind: str, identity: dict[str, Any], make: Callable[[Path], object]) -> str:
    """The folder of something that has been made, whole; it is made now if it was not."""
    folder = work_folder(out, kind, identity)
    if not (folder / "done").exists():
        make(folder)
        (folder / "done").touch()
    return str(folder)


def _texts(out: Path, model: ModelConfig, texts: list[str]) -> dict[str, str]:
    made = load_model(model).model
    sizes = Sizes(made.spec.frames, made.patches_per_frame, made.spec.dim, made.spec.text_length)
    compute = DeviceConfig().resolved()
    return encode_captions(texts, True, sizes, model, model_fingerprint(made), compute, out / "data")


def _candidates(
    out: Path, model: ModelConfig, texts: dict[str, str], snapshot: Snapshot, index: IndexConfig | None, k: int
) -> str:
    identity = {
        "texts": Path(texts["vector"]).parent.name,
        **index_identity(snapshot),
        "index": None if index is None else index.model_dump(),
        "k": k,
        "versions": computing_versions(),
        "source": computing_source(),
    }
    find = partial(_search.remote, model, texts, snapshot, index, k)
    return _once(out, "candidates", identity, lambda folder: ray.get(find(str(folder))))


@ray.remote
def _search(
    model: ModelConfig, texts: dict[str, str], snapshot: Snapshot, index: IndexConfig | None, k: int, folder: str
) -> None:
    """The candidates of all texts, with exact scores whatever found them."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    queries = projected(load_model(model).model, load_texts(texts))
    items = coarse_vectors(snapshot, load_pool(snapshot))
    k = min(k, len(items))
    built = None if index is None else build(index, lambda: iter([items]), *items.shape)
    began = time.perf_counter()
    found = search(queries, items, k) if built is None else _exactly(search_index(built, queries, k), queries, items)
    seconds = (time.perf_counter() - began) / len(queries)
    for name, values in (("index", found.index), ("score", found.score), ("seconds", np.array(seconds))):
        np.save(Path(folder) / f"{name}.npy", values)


def projected(model: EERCF, texts: Texts) -> NDArray[np.float32]:
    """Stage-1 queries t^ W of all texts, (T, D)."""
    with torch.inference_mode():
        queries: NDArray[np.float32] = project_text(texts.vector, model.video_projection.float()).numpy()
    return queries


def coarse_vectors(snapshot: Snapshot, pool: Pool) -> NDArray[np.float32]:
    """v^ of all videos, (N, D), in the order of their ids."""
    vectors = np.empty((len(pool), shape_of(snapshot.schema()).dim), np.float32)
    for number, place in pool.order.items():
        vectors[place] = tensor_column(snapshot.read_shard(snapshot.shards[number], ["video"]), "video")
    return vectors


def _exactly(found: Candidates, queries: NDArray[np.float32], items: NDArray[np.float32]) -> Candidates:
    """The same with exact scores, and in their order."""
    score = np.empty_like(found.score)
    for begin in range(0, len(queries), _QUERIES):
        some = slice(begin, begin + _QUERIES)
        score[some] = np.einsum("qd,qkd->qk", queries[some], items[found.index[some]])
    return merge([Candidates(found.index, score)], found.index.shape[1])
