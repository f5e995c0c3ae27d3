"""Two-stage retrieval against exhaustive fused scoring and against the machine itself: ViT-B/32's shapes, two threads.

All figures are ratios of one run. The machine's own rate is that of a large fp32 matrix product, measured beside them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from machine import best_of, machine_rate
from torch import Tensor

from mgvr_core.features.tokens import Asking, DenseTokens, Int8Tokens, PqTokens, Texts, Tokens, quantise
from mgvr_core.retrieval.coarse import Candidates, search
from mgvr_core.retrieval.fine import FineShard
from mgvr_core.retrieval.rerank import Reranker, score_pairs
from mgvr_core.retrieval.two_stage import reranked
from mgvr_core.scoring import video
from mgvr_core.scoring.frame_weak import frame_weak_of
from mgvr_core.scoring.fusion import FusionWeights, fuse, multiply_adds
from mgvr_core.scoring.patch_weak import patch_attention, patch_weak_of
from mgvr_core.scoring.tib_frame import tib_frame_of

Q, K = 1000, 50
F, P, D = 12, 49, 512  # ViT-B/32
_AT_ONCE = 8
"""Videos that exhaustive scoring takes at once: their products are as large as pays, and stay in the cache."""


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    faiss.omp_set_num_threads(2)
    yield
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def unit(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def stored(generator: torch.Generator, N: int, tokens: int, code: str) -> Tokens:
    """Tokens of N videos, some at a time: in fp32 they would not fit."""
    parts = [unit(generator, min(250, N - begin), tokens, D) for begin in range(0, N, 250)]
    if code == "fp16":
        return DenseTokens(torch.cat([part.half() for part in parts]))
    coded = [quantise(part) for part in parts]
    return Int8Tokens(torch.cat([codes for codes, _ in coded]), torch.cat([scale for _, scale in coded]))


def shard_of(N: int, code: str) -> FineShard:
    generator = torch.Generator().manual_seed(0)
    frames, temporal, patches = (stored(generator, N, tokens, code) for tokens in (F, F, F * P))
    return FineShard(unit(generator, N, D).half(), frames, temporal, patches, None, None, None, None)


def reranker_of(weights: FusionWeights) -> Reranker:
    generator = torch.Generator().manual_seed(1)
    W, U = (torch.eye(n) + 0.01 * torch.randn(n, n, generator=generator) for n in (D, F))
    return Reranker(weights, W, U)


def everything(reranker: Reranker, texts: Texts, shard: FineShard) -> np.ndarray:
    """The fused scores of all pairs (Q, N), each kind of token in one product for several videos."""
    weights = reranker.weights
    fused = np.empty((Q, len(shard)), np.float32)
    for begin in range(0, len(shard), _AT_ONCE):
        rows = torch.arange(begin, min(begin + _AT_ONCE, len(shard)))
        mine = slice(begin, begin + len(rows))
        frames, temporal = (_all_pairs(tokens, texts, rows) for tokens in (shard.frames, shard.temporal))
        scores = {
            "video": texts.projected @ shard.video[mine].float().T,
            "frame_weak": frame_weak_of(frames, None, reranker.mixing),
            "tib_frame": tib_frame_of(frames, temporal, None, shard.gram(rows)),
        }
        if shard.patches is not None and weights.patch_weak:
            patches = _all_pairs(shard.patches, texts, rows)
            scores["patch_weak"] = patch_weak_of(patches, patch_attention(patches, None))
        fused[:, mine] = fuse(scores, weights).numpy()
    return fused


def _all_pairs(tokens: Tokens, texts: Texts, rows: Tensor) -> Tensor:
    """<t, y> of all texts with all tokens of some videos, as one product: (Q, B, N)."""
    N = tokens.number
    if isinstance(tokens, Int8Tokens):
        codes, scale = texts.int8
        sums = torch._int_mm(codes, tokens.codes[rows].reshape(-1, D).T).float()  # (Q, B * N)
        similarity = sums.reshape(Q, len(rows), N).mul_(tokens.scale[rows]).mul_(scale[:, None, None])
    else:
        similarity = (texts.text @ tokens.vectors(rows).reshape(-1, D).T).reshape(Q, len(rows), N)
    return similarity


@pytest.mark.parametrize("code", ["fp16", "int8"])
@pytest.mark.parametrize("N", [1000, 10_000])
def test_two_stages_against_exhaustive_scoring(N: int, code: str) -> None:
    shard, reranker = shard_of(N, code), reranker_of(FusionWeights())
    texts = reranker.texts(unit(torch.Generator().manual_seed(2), Q, D))
    items, queries = shard.video.float().numpy(), texts.projected.numpy()

    def two_stages() -> tuple[Candidates, np.ndarray]:
        candidates = search(queries, items, K)
        query = np.repeat(np.arange(Q), K)
        return candidates, score_pairs(reranker, texts, shard, query, candidates.index.reshape(-1))["fused"]

    rounds = 5 if N <= 1000 else 2
    fast = best_of(two_stages, rounds)
    began = time.perf_counter()
    whole = everything(reranker, texts, shard)
    slow = min(
        [time.perf_counter() - began, *([] if N > 1000 else [best_of(lambda: everything(reranker, texts, shard), 2)])]
    )
    rate = machine_rate()
    candidates, fused = two_stages()
    found = reranked(candidates, fused.reshape(Q, K)).index
    masked = reranked(candidates, np.take_along_axis(whole, candidates.index, axis=1)).index
    pair = multiply_adds(reranker.weights, F, P, D)
    work = N * pair / (K * pair + N * video.multiply_adds(D))
    spent = Q * (K * pair + N * D) / rate
    print(
        f"\n{Q} queries x {N} videos, k = {K}, {code}: exhaustive scoring takes {slow / fast:.1f} times as long "
        f"({work:.1f} times the multiply-adds); two stages take {fast / spent:.2f} times the machine's own product for "
        f"theirs; {(found == masked).all(axis=1).sum()} of {Q} lists are those of the masked matrix, id for id"
    )
    assert np.array_equal(found, masked)


@pytest.mark.parametrize("code", ["fp16", "int8"])
def test_patch_scores_against_the_machines_product(code: str) -> None:
    N = 1000
    shard, reranker = shard_of(N, code), reranker_of(FusionWeights(video=0, frame_weak=0, tib_frame=0))
    texts = reranker.texts(unit(torch.Generator().manual_seed(2), Q, D))
    random = np.random.default_rng(0)
    query = np.repeat(np.arange(Q), K)
    wanted = np.concatenate([random.permutation(N)[:K] for _ in range(Q)])
    seconds = best_of(lambda: score_pairs(reranker, texts, shard, query, wanted))
    share = Q * K * F * P * D / seconds / machine_rate()
    print(f"\npatch scores of {Q} x {K} pairs, {code}, softmax and all: {share:.2f} of the machine's own rate")


@pytest.mark.parametrize("n", [1, 3, 5])
def test_decoded_tokens_against_tables(n: int) -> None:
    """Product quantisation: a video decoded once for its n texts, against a table of products for each text."""
    pieces, tokens, B = 64, 72, 64
    generator = torch.Generator().manual_seed(0)
    book = torch.randn(pieces, 256, D // pieces, generator=generator)
    codes = torch.randint(0, 256, (B, tokens, pieces), generator=generator, dtype=torch.uint8)
    texts = Texts(unit(generator, B * n, D), torch.empty(B * n, D))
    rows = torch.arange(B * n).reshape(B, n)
    stored, videos = PqTokens(codes, book, None), torch.arange(B)
    place = codes.numpy().transpose(2, 0, 1)[:, :, None, :]  # (M, B, 1, N)

    def by_tables() -> np.ndarray:
        tables = torch.bmm(texts.text.reshape(-1, pieces, D // pieces).transpose(0, 1), book.transpose(1, 2)).numpy()
        similarity = np.zeros((B, n, tokens), np.float32)
        for m in range(pieces):
            similarity += tables[m].reshape(-1).take(256 * rows.numpy()[:, :, None] + place[m])
        return similarity

    torch.set_num_threads(1)
    decoded = stored.similarity(Asking(texts, rows), videos).numpy()
    np.testing.assert_allclose(by_tables(), decoded, atol=1e-4)
    ratio = best_of(by_tables) / best_of(lambda: stored.similarity(Asking(texts, rows), videos))
    print(f"\n{n} texts a video: looking tables up takes {ratio:.1f} times as long as decoding and a product")


def test_reading_packed_columns(tmp_path: Path) -> None:
    """A coded set's column of bytes against a plain set's column of tensors, the same numbers."""
    numbers = np.random.default_rng(0).standard_normal((32768, D)).astype(np.float16)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(numbers)
    packed = pa.Array.from_buffers(pa.binary(2 * D), len(numbers), [None, pa.py_buffer(numbers)])
    files = []
    for name, column in (("tensors", tensors), ("packed", packed)):
        files.append(tmp_path / f"{name}.parquet")
        pq.write_table(pa.table({"video": column}), files[-1], compression="none", use_dictionary=False)
    slow, fast = (best_of(lambda file=file: pq.read_table(file)) for file in files)
    print(f"\na column of tensors takes {slow / fast:.1f} times as long to read as one of bytes")
