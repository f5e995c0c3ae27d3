"""Small feature tables, changes that bring them into a set, and a set of what the writer of `writer.py` makes."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feature_sets import WRITER, Adding, Table

from mgvr_core.features.contents import Change, Key, Place, Source
from mgvr_core.features.schema import FeatureShape, build_table, feature_schema
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint

SHAPE = FeatureShape(frames=3, dim=4, patches=2)

Columns = Callable[..., dict[str, Any]]


@pytest.fixture
def fingerprint() -> Fingerprint:
    return Fingerprint({"weights": "abc", "activation": "quickgelu", "sampling": {"frames": 3, "fps": 1.0}})


@pytest.fixture
def columns() -> Columns:
    """The columns of n rows of unit vectors; the last frame of each is padding."""

    def build(n: int = 5, first: int = 0, shape: FeatureShape = SHAPE) -> dict[str, Any]:
        random = np.random.default_rng(first)
        F, P, D = shape.frames, shape.patches, shape.dim
        mask = np.ones((n, F), bool)
        mask[:, -1] = False

        def unit(*sizes: int) -> np.ndarray:
            vectors = random.normal(size=(n, *sizes, D))
            return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

        return {
            "id": [f"v{first + i}" for i in range(n)],
            "uri": [f"clips/{first + i}.mp4" for i in range(n)],
            "content_hash": [f"{first + i:064x}" for i in range(n)],
            "start": [None] * n,
            "end": [2.5] * n,
            "duration": [2.5] * n,
            "fps": [25.0] * n,
            "decoder": [("pyav", None)[i % 2] for i in range(n)],
            "timestamps": np.where(mask, random.random((n, F)), np.nan),
            "mask": mask,
            "video": unit(),
            "frames": unit(F).astype(np.float32),
            "frame_norms": random.uniform(0.5, 12, (n, F)) * mask,
            "temporal": unit(F).astype(np.float16),
            "patches": unit(F, P),
            "thumbnail": [b"\xff\xd8 a picture"] * (n - 1) + [None] * min(n, 1),
        }

    return build


@pytest.fixture
def table(columns: Columns, fingerprint: Fingerprint) -> Table:
    def build(n: int = 5, first: int = 0, fingerprint: Fingerprint = fingerprint) -> pa.Table:
        return build_table(columns(n, first), feature_schema(SHAPE, fingerprint))

    return build


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


@pytest.fixture
def adding(table: Table) -> Adding:
    """The change of a run that has encoded n new videos into one shard, which it has written."""

    def build(store: FeatureStore, n: int = 5, first: int = 0, corpus: str = "clips") -> Change:
        rows = table(n, first)
        shard = store.write_shard(rows)
        values = zip(*(rows[name].to_pylist() for name in ("uri", "id", "content_hash")), strict=True)
        sources = [
            Source(Key(corpus, uri), name, digest, 1000, "mtime:1", Place(shard.path, row))
            for row, (uri, name, digest) in enumerate(values)
        ]
        return Change(sources=sources, shards=[shard])

    return build


@pytest.fixture
def writer() -> ModuleType:
    """The writer's own functions, where no process of its own is wanted."""
    spec = spec_from_file_location("writer", WRITER)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sound(tmp_path: Path, writer: ModuleType) -> FeatureStore:
    """A set of what one round makes."""
    store = FeatureStore(tmp_path / "set")
    writer.rounds(store.url, "one", 1)
    return store
