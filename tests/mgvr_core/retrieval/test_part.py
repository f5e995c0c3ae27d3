"""Some shards of a set: together the parts give what one search over everything gives, however the set is spread."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from drawn import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from retrieval_sets import D, F, P, made_set, near_features, order_of
from torch.nn.functional import normalize

from mgvr_core.errors import MgvrError
from mgvr_core.features.layout import CodecConfig
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.retrieval import coarse
from mgvr_core.retrieval import part as module
from mgvr_core.retrieval.certify import certify, rth_best, together
from mgvr_core.retrieval.coarse import merge
from mgvr_core.retrieval.fine import fine_shard
from mgvr_core.retrieval.part import Pairs, Part
from mgvr_core.retrieval.rerank import Reranker, score_pairs
from mgvr_core.scoring.fusion import FusionWeights

SIZES = (7, 5, 9, 6, 8)
GONE = ("v05", "v11", "v20", "v33")
N = sum(SIZES) - len(GONE)
CODES = {
    "plain": None,
    "fp16": CodecConfig(values="fp16"),
    "int8": CodecConfig(values="int8"),
    "pq": CodecConfig(values="pq", subvectors=8),
    "pq merged": CodecConfig(values="pq", subvectors=8, tokens=2, rotate=False),
}


def names() -> list[list[str]]:
    """The order of the ids is not that of the shards and rows."""
    shuffled = [f"v{number:02d}" for number in np.random.default_rng(0).permutation(sum(SIZES))]
    cuts = np.cumsum([0, *SIZES])
    return [shuffled[a:b] for a, b in pairwise(cuts)]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Snapshot]:
    return {
        code: made_set(tmp_path_factory.mktemp("set"), names(), GONE, config=config) for code, config in CODES.items()
    }


@pytest.fixture(scope="module")
def whole_numbers(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Coarse vectors of small integers: sums are exact in any order, and many tie."""
    features = near_features(0, sum(SIZES))
    features["video"] = torch.from_numpy(np.random.default_rng(0).integers(-1, 2, (sum(SIZES), D))).float()
    return made_set(tmp_path_factory.mktemp("set"), names(), GONE, features)


def everything(snapshot: Snapshot, *columns: str) -> pa.Table:
    """All videos in the order of their ids."""
    table = pa.concat_tables(snapshot.tables(["id", *columns])).sort_by("id")
    assert len(table) == N
    return table.combine_chunks()


def parts_of(snapshot: Snapshot, owner: Sequence[int], keep: int) -> list[Part]:
    """The shards spread over parts: shard s belongs to owner[s]."""
    order = order_of(snapshot)
    return [
        Part(snapshot, {number: order[number] for number in order if owner[number] == part}, keep)
        for part in sorted(set(owner))
    ]


def pairs_of(snapshot: Snapshot, owner: Sequence[int], query: NDArray, video: NDArray) -> list[tuple[Pairs, dict]]:
    """Pairs by place in the order of ids -> for every part its own by shard and row, and which of all they are."""
    order = order_of(snapshot)
    found: list[tuple[dict, dict]] = [({}, {}) for _ in set(owner)]
    for number, places in order.items():
        mine = np.flatnonzero(np.isin(video, places))
        if len(mine):
            row = np.array([places.tolist().index(v) for v in video[mine]])
            pairs, members = found[sorted(set(owner)).index(owner[number])]
            pairs[number], members[number] = (query[mine], row), mine
    return found


owners = st.lists(st.integers(0, 2), min_size=len(SIZES), max_size=len(SIZES))
keeps = st.sampled_from([0, 10 * D * 2, 1 << 20])


def integers(random: np.random.Generator, Q: int) -> NDArray[np.float32]:
    return random.integers(-2, 3, (Q, D)).astype(np.float32)


@settings(deadline=None, max_examples=30)
@given(owner=owners, keep=keeps, rows=st.integers(1, 40), k=st.integers(1, N + 2), Q=st.integers(1, 30))
def test_what_parts_find_together_is_one_search_over_all(
    whole_numbers: Snapshot, owner: list[int], keep: int, rows: int, k: int, Q: int
) -> None:
    """With ties settled by id, whatever is kept in memory, and so again when it is asked a second time."""
    queries = integers(np.random.default_rng(Q), Q)
    items = tensor_column(everything(whole_numbers, "video"), "video").astype(np.float32)
    expected = coarse.search(queries, items, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ROWS", rows)
        parts = parts_of(whole_numbers, owner, keep)
        for _ in range(2):
            found = merge([part.search(queries, k) for part in parts], k)
            assert np.array_equal(found.index, expected.index)
            assert np.array_equal(found.score, expected.score)


@settings(deadline=None, max_examples=20)
@given(owner=owners, keep=keeps, rows=st.integers(1, 40))
def test_standings_add_up_to_those_among_all(whole_numbers: Snapshot, owner: list[int], keep: int, rows: int) -> None:
    random = np.random.default_rng(0)
    queries, video = integers(random, 25), random.integers(0, N, 25)
    items = tensor_column(everything(whole_numbers, "video"), "video").astype(np.float32)
    scores = queries @ items.T
    truth = scores[np.arange(25), video]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_ROWS", rows)
        first, *rest = [part.standing(queries, truth) for part in parts_of(whole_numbers, owner, keep)]
    total = sum(rest, start=first)
    assert np.array_equal(total.above, (scores > truth[:, None]).sum(axis=1))
    assert np.array_equal(total.level, (scores == truth[:, None]).sum(axis=1))


@settings(deadline=None, max_examples=20)
@given(owner=owners, M=st.integers(1, 60), seed=st.integers(0, 99))
def test_coarse_scores_and_vectors_of_pairs_are_those_of_their_videos(
    whole_numbers: Snapshot, owner: list[int], M: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    queries, query, video = integers(random, 6), random.integers(0, 6, M), random.integers(0, N, M)
    items = tensor_column(everything(whole_numbers, "video"), "video").astype(np.float32)
    scored = 0
    split = pairs_of(whole_numbers, owner, query, video)
    for part, (pairs, members) in zip(parts_of(whole_numbers, owner, 0), split, strict=True):
        inner, vectors = part.inner(queries, pairs), part.coarse({number: row for number, (_, row) in pairs.items()})
        assert inner.keys() == vectors.keys() == pairs.keys()
        for number, mine in members.items():
            assert inner[number].dtype == vectors[number].dtype == np.float32
            assert np.array_equal(inner[number], (queries[query[mine]] * items[video[mine]]).sum(axis=1))
            assert np.array_equal(vectors[number], items[video[mine]])
            scored += len(mine)
    assert scored == M


def reads(snapshot: Snapshot, keep: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Shards that each of three searches reads."""
    count, true = [0], Snapshot.read_shard

    def read(self: Snapshot, *arguments: object) -> pa.Table:
        count[0] += 1
        return true(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "BLOCK_ROWS", 1)
    part = parts_of(snapshot, [0] * len(SIZES), keep)[0]
    monkeypatch.setattr(Snapshot, "read_shard", read)
    found = []
    for _ in range(3):
        part.search(np.ones((1, D), np.float32), 1)
        found.append(count[0])
        count[0] = 0
    return found


@pytest.mark.parametrize(("shards", "again"), [(0, 5), (2, 3), (5, 0)])
def test_what_fits_into_memory_is_read_once(
    whole_numbers: Snapshot, monkeypatch: pytest.MonkeyPatch, shards: int, again: int
) -> None:
    live = [shard.live for shard in whole_numbers.shards]
    keep = sum(live[:shards]) * D * 2  # of fp16
    assert reads(whole_numbers, keep, monkeypatch) == [5, again, again]


def reranker(random: np.random.Generator, **weights: float) -> Reranker:
    W, U = (torch.eye(size) + 0.1 * normal(random, size, size) for size in (D, F))
    return Reranker(FusionWeights(**weights), W, U)


def texts_of(seed: int, T: int) -> NDArray[np.float32]:
    text: NDArray[np.float32] = normalize(
        torch.randn(T, D, generator=torch.Generator().manual_seed(seed)), dim=-1
    ).numpy()
    return text


def exhaustive(snapshot: Snapshot, ranker: Reranker, text: NDArray, query: NDArray, video: NDArray) -> dict:
    codec = snapshot.codec()
    shard = fine_shard(everything(snapshot, *ranker.columns(codec)), codec)
    return score_pairs(ranker, ranker.texts(torch.from_numpy(text)), shard, query, video)


@pytest.mark.parametrize("code", list(CODES))
@settings(deadline=None, max_examples=12)
@given(owner=owners, T=st.integers(1, 20), M=st.integers(0, 80), seed=st.integers(0, 99))
def test_pairs_that_parts_rerank_have_the_bits_of_scoring_everything(
    sets: dict[str, Snapshot], code: str, owner: list[int], T: int, M: int, seed: int
) -> None:
    """Though a shard is given only the texts that it meets, and a video meets one or many of them."""
    random = np.random.default_rng(seed)
    snapshot, ranker, text = sets[code], reranker(random), texts_of(seed, T)
    query, video = random.integers(0, T, M), random.integers(0, N, M)
    every = [axis.reshape(-1) for axis in np.mgrid[:T, :N]]
    expected = {name: values[N * query + video] for name, values in exhaustive(snapshot, ranker, text, *every).items()}
    done: list[int] = []
    split = pairs_of(snapshot, owner, query, video)
    for part, (pairs, members) in zip(parts_of(snapshot, owner, 0), split, strict=True):
        found = part.rerank(ranker, text, pairs, done.append)
        assert found.keys() == pairs.keys()
        for number, scores in found.items():
            assert scores.keys() == expected.keys()
            for name, values in scores.items():
                np.testing.assert_array_equal(values, expected[name][members[number]], err_msg=name)
    assert sum(done) == M


@pytest.mark.parametrize("code", [code for code in CODES if code != "plain"])
@pytest.mark.parametrize(("owner", "rows"), [([0, 0, 0, 0, 0], 1000), ([0, 1, 0, 2, 1], 8)])
def test_what_parts_certify_together_is_exhaustive_search(
    sets: dict[str, Snapshot], code: str, owner: list[int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", rows)
    monkeypatch.setattr(module, "_BOUNDED", 5)
    snapshot, Q, r, k = sets[code], 12, 3, 4
    ranker = reranker(np.random.default_rng(0), tib_patch=0.3)
    video = tensor_column(everything(snapshot, "video"), "video").astype(np.float32)
    near = video[np.random.default_rng(1).integers(0, N, Q)] + 0.1 * texts_of(1, Q)  # as captions are near to a video
    text = np.concatenate([near / np.linalg.norm(near, axis=1, keepdims=True), texts_of(0, Q)]).astype(np.float32)
    query, every = (axis.reshape(-1) for axis in np.mgrid[: 2 * Q, :N])
    fused = exhaustive(snapshot, ranker, text, query, every)["fused"].reshape(2 * Q, N)
    first = coarse.search(ranker.texts(torch.from_numpy(text)).projected.numpy(), video, k)
    known = np.take_along_axis(fused, first.index, axis=1)
    asked: list[int] = []

    def score(query: NDArray, video: NDArray) -> NDArray:
        asked.append(len(query))
        return fused[query, video]

    parts = parts_of(snapshot, owner, 0)
    everywhere = np.full(2 * Q, -np.inf, np.float32)
    bounds = together([part.promising(ranker, text, first.index, everywhere, N) for part in parts], N).pairs
    assert len(bounds) == 2 * Q * (N - k)  # of all videos but those that are known
    assert (bounds.value >= fused[bounds.query, bounds.video]).all()
    for limit in (N, 6):
        room = limit - k
        promising = together(
            [part.promising(ranker, text, first.index, rth_best(r, known), room) for part in parts], room
        )
        found = certify(r, first, known, promising, score)
        best = np.argsort(-fused, axis=1, kind="stable")[:, :r]
        for number in np.flatnonzero(found.certified):
            assert np.array_equal(found.index[found.offsets[number] :][:r], best[number])
        if limit == N:
            assert found.certified.all()
            assert (found.k > k).any()  # the candidates alone prove little,
            assert (found.k < N).any()  # and the bounds save something
        assert found.k.max() <= limit


def test_a_plain_set_keeps_no_bounds(sets: dict[str, Snapshot]) -> None:
    part = parts_of(sets["plain"], [0] * 5, 0)[0]
    ranker, text = reranker(np.random.default_rng(0)), texts_of(0, 1)
    with pytest.raises(MgvrError, match=r"keeps no bounds.*recode"):
        part.promising(ranker, text, np.zeros((1, 1), np.int64), np.zeros(1, np.float32), 1)


def test_the_rerank_needs_no_patches_where_no_weight_asks_for_them(sets: dict[str, Snapshot]) -> None:
    """They are most of a set, and are not read then."""
    assert P > 1
    ranker = Reranker(FusionWeights(patch_weak=0), torch.eye(D), None)
    for code in ("plain", "pq merged"):
        columns = ranker.columns(sets[code].codec())
        assert not [name for name in columns if name.startswith("patch")]
        part = parts_of(sets[code], [0] * 5, 0)[0]
        found = part.rerank(ranker, texts_of(0, 1), {0: (np.zeros(1, np.int64), np.zeros(1, np.int64))})
        assert set(found[0]) == {"video", "frame_weak", "tib_frame", "fused"}
