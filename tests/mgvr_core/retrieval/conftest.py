"""Feature tables in memory: the columns that a rerank reads, in fp32 where a shard has fp16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

Table = Callable[..., pa.Table]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """For all tests of this room."""


def tensor_column(array: np.ndarray) -> pa.FixedShapeTensorArray:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))


@pytest.fixture(scope="session")
def feature_table() -> Table:
    """Random features of V videos, of unit length, with at least one valid frame and padding that is zero."""

    def build(random: np.random.Generator, V: int, F: int = 3, P: int = 2, D: int = 8) -> pa.Table:
        mask = random.random((V, F)) < 0.7
        mask[:, 0] = True

        def unit(*shape: int) -> np.ndarray:
            values = random.normal(size=shape).astype(np.float32)
            return values / np.linalg.norm(values, axis=-1, keepdims=True)

        return pa.table(
            {
                "video": tensor_column(unit(V, D)),
                "frames": tensor_column(unit(V, F, D) * mask[..., None]),
                "temporal": tensor_column(unit(V, F, D) * mask[..., None]),
                "patches": tensor_column(unit(V, F, P, D) * mask[..., None, None]),
                "mask": tensor_column(mask.astype(np.uint8)),
            }
        )

    return build
