"""A corpus of small videos, a model of a few thousand weights, and the features of one by the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import torch
from small_jobs import FRAMES, FRESH, SIZE

from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.datasets.procedural import write_manifests, write_video, write_videos
from mgvr_core.datasets.render import render
from mgvr_core.datasets.scenes import ProceduralConfig, make_scene
from mgvr_core.features.contents import Change, Key, Place, ShardInfo, Source
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint
from mgvr_core.model import checkpoint
from mgvr_core.model.load import ModelConfig, load_model
from pipelines.encode import EncodeConfig, FeaturesConfig, encode
from pipelines.runtime import RayConfig

CORPUS = ProceduralConfig(train=24, validation=4, test=12, events=2, captions_per_video=2, size=SIZE, seconds=2.0)
SHORT = (3, 7, 8)
"""Test videos cut to one second: at two frames a second half of their frames are padding."""

LOCAL = RayConfig(cpus=4)


class Corpus(NamedTuple):
    """Procedural videos with their manifests: `SPLIT/`, `SPLIT.jsonl`, `SPLIT-queries.jsonl`."""

    folder: Path

    def manifest(self, split: str) -> CorpusConfig:
        return CorpusConfig(uri=str(self.folder / f"{split}.jsonl"))

    def records(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    write_manifests(folder, CORPUS)
    for split, count in (("train", CORPUS.train), ("validation", CORPUS.validation), ("test", CORPUS.test)):
        write_videos(folder, CORPUS, split, range(count))
    for index in SHORT:
        scene = make_scene(CORPUS, "test", index)
        write_video(folder / "test" / f"{scene.id}.mp4", render(scene)[: scene.fps], scene.fps)
    return Corpus(folder)


def fresh_model(seed: int = 0, frames: int = FRAMES) -> ModelConfig:
    return ModelConfig(**{**FRESH, "seed": seed, "frames": frames})


@pytest.fixture(scope="session")
def make_checkpoint(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelConfig]:
    """Checkpoints of untrained models whose W and U are not the identity: what ignores them gives other results."""

    def make(seed: int = 0, text_length: int = 24, **about: Any) -> ModelConfig:
        captions = [text for split in ("train", "test") for row in corpus.records(split) for text in row["captions"]]
        model = load_model(fresh_model(seed).model_copy(update={"text_length": text_length}), captions).model
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for square in (model.video_projection, model.frame_mixing):
                square += 0.3 * torch.randn(square.shape, generator=generator)
        folder = tmp_path_factory.mktemp("model")
        checkpoint.save(folder, model, {"sampling": {"strategy": "fps", "fps": 2.0, "frames": FRAMES}, **about})
        return ModelConfig(checkpoint=str(folder))

    return make


@pytest.fixture(scope="session")
def model(make_checkpoint: Callable[..., ModelConfig]) -> ModelConfig:
    return make_checkpoint()


@pytest.fixture(scope="session")
def features(
    ray_cluster: None, corpus: Corpus, model: ModelConfig, tmp_path_factory: pytest.TempPathFactory
) -> Snapshot:
    """The test split encoded, in several shards."""
    out = tmp_path_factory.mktemp("features")
    return encode(
        EncodeConfig(
            out=str(out),
            corpus=corpus.manifest("test"),
            model=model,
            features=FeaturesConfig(rows_per_shard=5),
            ray=LOCAL,
        )
    )


def change_to(tables: Mapping[ShardInfo, pa.Table]) -> Change:
    """The change that makes a set hold these shards' rows, as if an encode run had listed their files."""
    columns = ("uri", "start", "end", "id", "content_hash")
    sources = [
        Source(Key("made", uri, start, end), name, digest, 1, "mtime:1", Place(shard.path, row))
        for shard, table in tables.items()
        for row, (uri, start, end, name, digest) in enumerate(
            zip(*(table[c].to_pylist() for c in columns), strict=True)
        )
    ]
    return Change(sources=sources, shards=tuple(tables))


@pytest.fixture(scope="session")
def commit_tables() -> Callable[..., Snapshot]:
    """Feature tables made into a set, one shard each, by a commit."""

    def commit(store: FeatureStore, fingerprint: Fingerprint, tables: Sequence[pa.Table]) -> Snapshot:
        shards = {store.write_shard(table): table for table in tables}
        return store.commit(fingerprint, change_to(shards), {})

    return commit


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that connects to Ray: what is refused must be refused before."""
    import ray

    def refuse(*args: object, **options: object) -> None:
        pytest.fail("Ray was started for something that can be checked without it")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
