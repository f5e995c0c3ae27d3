"""What the coarse stage saves: a rerank of k candidates a query, against the fused score of all pairs.

Times differ less than multiply-adds do: either way nearly every video is wanted by some query, so its features are
read once and its scores called once, however many queries want it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch

from mgvr_core.retrieval import coarse
from mgvr_core.retrieval.rerank import Reranker, score_pairs
from mgvr_core.scoring import video
from mgvr_core.scoring.fusion import FusionWeights, multiply_adds

Q, K = 200, 50
F, P, D = 12, 49, 512  # ViT-B/32


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Work is compared, not how well it spreads over this machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def unit(random: np.random.Generator, *shape: int) -> np.ndarray:
    values = random.standard_normal(shape, np.float32)
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    return values


def feature_table(random: np.random.Generator, N: int, patches: bool) -> pa.Table:
    """Features of N videos as a shard holds them: fp16, no padding."""
    shapes = {"video": (D,), "frames": (F, D), "temporal": (F, D)} | ({"patches": (F, P, D)} if patches else {})
    columns = {name: unit(random, N, *shape).astype(np.float16) for name, shape in shapes.items()}
    columns["mask"] = np.ones((N, F), np.uint8)
    return pa.table({name: pa.FixedShapeTensorArray.from_numpy_ndarray(array) for name, array in columns.items()})


@pytest.mark.parametrize(
    ("weights", "N"),
    # As many videos as are worth waiting for: features are 50 times as large with patches.
    [pytest.param(FusionWeights(), 200, id="patches"), pytest.param(FusionWeights(patch_weak=0), 1000, id="frames")],
)
def test_two_stages_against_exhaustive_scoring(weights: FusionWeights, N: int, race) -> None:
    random = np.random.default_rng(0)
    table = feature_table(random, N, weights.needs_patches)
    text = unit(random, Q, D)
    items = table["video"].chunk(0).to_numpy_ndarray().astype(np.float32)
    reranker = Reranker(weights, projection=torch.eye(D), mixing=torch.eye(F))

    def fused(index: np.ndarray) -> np.ndarray:
        """Fused scores (Q, n) of every query with its own n videos."""
        query = np.repeat(np.arange(Q), index.shape[1])
        scores = score_pairs(reranker, torch.from_numpy(text), table, query, index.reshape(-1))
        return scores["fused"].reshape(index.shape)

    def two_stages() -> tuple[np.ndarray, np.ndarray]:
        candidates = coarse.search(text, items, K).index  # W is the identity: the text is the query
        return candidates, fused(candidates)

    def exhaustive() -> np.ndarray:
        return fused(np.broadcast_to(np.arange(N), (Q, N)))

    candidates, reranked = two_stages()
    np.testing.assert_allclose(reranked, np.take_along_axis(exhaustive(), candidates, axis=1), atol=1e-5)

    ratio = race(exhaustive, two_stages)
    pair = multiply_adds(weights, F, P, D)
    work = N * pair / (K * pair + N * video.multiply_adds(D))
    print(
        f"\n{Q} queries, {N} videos, k = {K}, {', '.join(weights.active)}: exhaustive scoring takes {ratio:.1f} times "
        f"as long as two stages, and {work:.1f} times the multiply-adds"
    )
