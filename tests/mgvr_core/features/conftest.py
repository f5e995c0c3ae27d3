"""Small feature tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mgvr_core.features.schema import FeatureShape, build_table, feature_schema
from mgvr_core.identity import Fingerprint

SHAPE = FeatureShape(frames=3, dim=4, patches=2)
FINGERPRINT = Fingerprint({"weights": "abc", "activation": "quickgelu", "sampling": {"frames": 3, "fps": 1.0}})

Columns = Callable[..., dict[str, Any]]
Table = Callable[..., pa.Table]


@pytest.fixture
def columns() -> Columns:
    """The columns of n rows; the last frame of each is padding."""

    def build(n: int = 5, first: int = 0, shape: FeatureShape = SHAPE) -> dict[str, Any]:
        random = np.random.default_rng(first)
        F, P, D = shape.frames, shape.patches, shape.dim
        mask = np.ones((n, F), bool)
        mask[:, -1] = False
        return {
            "id": [f"v{first + i}" for i in range(n)],
            "uri": [f"clips/{first + i}.mp4" for i in range(n)],
            "content_hash": ["0" * 64] * n,
            "start": [None] * n,
            "end": [2.5] * n,
            "duration": [2.5] * n,
            "fps": [25.0] * n,
            "timestamps": np.where(mask, random.random((n, F)), np.nan),
            "mask": mask,
            "video": random.normal(size=(n, D)),
            "frames": random.normal(size=(n, F, D)).astype(np.float32),
            "temporal": random.normal(size=(n, F, D)).astype(np.float16),
            "patches": random.normal(size=(n, F, P, D)),
            "thumbnail": [b"\xff\xd8 a picture"] * (n - 1) + [None] * min(n, 1),
        }

    return build


@pytest.fixture
def table(columns: Columns) -> Table:
    def build(n: int = 5, first: int = 0, fingerprint: Fingerprint = FINGERPRINT) -> pa.Table:
        return build_table(columns(n, first), feature_schema(SHAPE, fingerprint))

    return build
