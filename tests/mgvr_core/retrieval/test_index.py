"""The approximate index: by inner product, full lists, the same bytes again, and never one of other items."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from mgvr_core.errors import MgvrError
from mgvr_core.retrieval import coarse
from mgvr_core.retrieval.coarse import Candidates
from mgvr_core.retrieval.index import Index, IndexConfig, build, check, load, recall_at_k, save, search

N, D = 1200, 16
IDENTITY = {"features": "0123abcd", "snapshot": 3, "rows": N}
Blocks = Callable[[], Iterator[NDArray]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def items() -> NDArray[np.float32]:
    """Unit vectors in 40 heaps, some of them twice."""
    random = np.random.default_rng(0)
    found = random.normal(size=(40, D))[random.integers(0, 40, N)] + 0.4 * random.normal(size=(N, D))
    found[100:110] = found[900:910]
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def queries(items: NDArray[np.float32]) -> NDArray[np.float32]:
    """Not of unit length, as projected texts are not."""
    random = np.random.default_rng(1)
    near = items[random.integers(0, N, 50)] + 0.1 * random.normal(size=(50, D))
    return (near * random.uniform(0.3, 3, (50, 1))).astype(np.float32)


def cut(items: NDArray, size: int) -> Blocks:
    return lambda: (items[begin : begin + size] for begin in range(0, len(items), size))


def built(items: NDArray, factory: str, block: int = 500, **settings: Any) -> Index:
    return build(IndexConfig(factory=factory, **settings), cut(items, block), *items.shape)


def content(index: Index) -> bytes:
    return faiss.serialize_index(index.raw).tobytes()


@pytest.mark.parametrize(
    "factory", ["IVF16,Flat", "OPQ4,IVF16,Flat", "IVF16_HNSW8,Flat", "IVF16,PQ4x4fs,RFlat", "Flat"]
)
def test_searched_hard_enough_it_gives_the_exact_search_s_lists(
    factory: str, items: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    effort = None if factory == "Flat" else "nprobe=16,k_factor_rf=300" if "RFlat" in factory else "nprobe=16"
    found, exact = search(built(items, factory, search=effort), queries, 20), coarse.search(queries, items, 20)
    assert recall_at_k(found, exact) == 1
    np.testing.assert_allclose(found.score, exact.score, atol=1e-5)
    assert found.index.dtype == np.int64
    assert found.score.dtype == np.float32


@pytest.mark.parametrize("factory", ["HNSW16", "HNSW16_SQ8", "IVF16,SQ8", "PQ8x4,RFlat"])
def test_an_approximate_search_finds_most_and_its_scores_are_inner_products(
    factory: str, items: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    """Of queries that are not of unit length: by distance the lists would be the same, the scores would not."""
    found, exact = search(built(items, factory), queries, 20), coarse.search(queries, items, 20)
    assert recall_at_k(found, exact) > 0.5
    scores = np.einsum("qd,qkd->qk", queries, items[found.index])
    np.testing.assert_allclose(found.score, scores, atol=0.05)


def test_a_long_item_is_near_to_no_query_by_distance_but_first_by_inner_product() -> None:
    random = np.random.default_rng(2)
    longest = random.normal(size=(300, D)).astype(np.float32)
    longest[7] = 50
    for factory in ("HNSW16", "IVF4,Flat"):
        assert search(built(longest, factory), np.ones((1, D), np.float32), 1).index.tolist() == [[7]]


def test_more_effort_finds_more(items: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    exact = coarse.search(queries, items, 20)
    little, much = (
        recall_at_k(search(built(items, "IVF32,Flat", search=f"nprobe={probes}"), queries, 20), exact)
        for probes in (1, 32)
    )
    assert little < much == 1


@pytest.mark.parametrize(
    "factory",
    ["IVF64,SQ8", "IVF64,Flat,RFlat", "IVF64_HNSW4,Flat", "OPQ4,IVF64,PQ4x4", "IVF64,PQ4x4fs", "HNSW4", "PQ4x4"],
)
@pytest.mark.parametrize("k", [300, N + 5])
def test_a_list_is_full_however_little_the_index_finds_at_first(
    factory: str, k: int, items: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    index = built(items, factory)
    before = content(index)
    found = search(index, queries, k)
    assert found.index.shape == found.score.shape == (len(queries), min(k, N))
    assert ((found.index >= 0) & (found.index < N)).all()
    assert all(len(set(row)) == len(row) for row in found.index.tolist())
    order = np.lexsort((found.index, -found.score))
    assert np.array_equal(order, np.broadcast_to(np.arange(min(k, N)), order.shape))
    assert content(index) == before  # the next search is as quick as the first


def test_what_a_graph_can_t_reach_is_found_all_the_same(queries: NDArray[np.float32]) -> None:
    """Equal items fill each other's links, and cut the others off."""
    items = np.repeat(np.eye(4, D, dtype=np.float32), 100, axis=0)
    index = built(items, "HNSW4")
    assert (index.raw.search(queries, 400)[1] < 0).any(), "the graph reaches all: this test shows nothing"
    assert np.array_equal(search(index, queries, 400).index, coarse.search(queries, items, 400).index)


@pytest.mark.parametrize("factory", ["IVF16,Flat", "HNSW8", "OPQ4,IVF16,PQ4x4", "IVF16,SQ8"])
def test_the_same_items_give_the_same_bytes_however_they_are_cut(
    factory: str, items: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgvr_core.retrieval.index._BATCH", 256)
    first = content(built(items, factory, block=500, train_rows=800))
    assert content(built(items, factory, block=77, train_rows=800)) == first
    assert content(built(items, factory, block=N, train_rows=800)) == first


def test_another_seed_trains_otherwise(items: NDArray[np.float32]) -> None:
    """Also where all rows are training rows: k-means starts elsewhere."""
    assert content(built(items, "IVF16,Flat", seed=1)) != content(built(items, "IVF16,Flat", seed=2))


def test_half_precision_blocks_are_read_as_they_are(items: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    half = items.astype(np.float16)
    index = built(half, "Flat")
    assert np.array_equal(index.raw.reconstruct_n(0, N), half.astype(np.float32))


def test_an_index_without_training_reads_the_items_once(items: NDArray[np.float32]) -> None:
    passes = []

    def blocks() -> Iterator[NDArray]:
        passes.append(1)
        yield items

    build(IndexConfig(factory="HNSW8"), blocks, N, D)
    assert len(passes) == 1
    build(IndexConfig(factory="IVF8,Flat"), blocks, N, D)
    assert len(passes) == 3


def test_a_word_that_is_no_index_is_refused_with_the_configuration() -> None:
    with pytest.raises(ValidationError, match="'IFV16,Flat' is no faiss index"):
        IndexConfig(factory="IFV16,Flat")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("PQ5", r"PQ5 \(factory\) can't hold items of 16 dimensions by inner product: .*multiple"),
        ("LSH", "LSH .* can't hold items"),
        ("IVF1500,Flat", "at least 1500 training rows and gets 1200 of a pool of 1200 videos: raise train_rows"),
        ("IVF0,Flat", "has no lists"),
        ("HNSW0", "too few links"),
        ("HNSW1", "too few links"),
        ("IVF16_HNSW1,Flat", "too few links"),
        ("NSG16", "can't be filled block by block"),
        ("IDMap,Flat", "can't be filled block by block"),
        ("PCA8,IVF16,Flat", "changes inner products"),
        ("L2norm,Flat", "changes inner products"),
    ],
)
def test_an_index_that_can_t_serve_is_refused_before_anything_is_read(factory: str, message: str) -> None:
    config = IndexConfig(factory=factory)
    with pytest.raises(MgvrError, match=message) as caught:
        check(config, N, D)
    assert factory in str(caught.value)

    def blocks() -> Iterator[NDArray]:
        pytest.fail("items were read")
        yield np.zeros((0, D))

    with pytest.raises(MgvrError, match=message):
        build(config, blocks, N, D)


def test_too_few_training_rows_for_a_code_are_a_clear_error(items: NDArray[np.float32]) -> None:
    with pytest.raises(MgvrError, match=r"PQ4 .*needs at least 256 training rows and gets 100: raise train_rows"):
        built(items, "PQ4", train_rows=100)


@pytest.mark.parametrize("wrong", ["efSearch=64", "nprobe=x", "nprobes=3"])
def test_a_search_setting_that_does_not_fit_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(MgvrError, match=f"search: '{wrong}' does not fit the index IVF16,Flat"):
        check(IndexConfig(factory="IVF16,Flat", search=wrong), N, D)


@pytest.mark.parametrize(("rows", "came"), [(N - 1, "1200 or more|1000 or more"), (N + 1, "1200 came")])
def test_another_number_of_items_than_promised_is_refused(rows: int, came: str, items: NDArray[np.float32]) -> None:
    for factory in ("HNSW8", "IVF8,Flat"):
        with pytest.raises(MgvrError, match=f"to hold {rows} items, but ({came})"):
            build(IndexConfig(factory=factory), cut(items, 500), rows, D)


def test_an_item_that_is_not_finite_or_of_another_size_is_refused_by_its_row(items: NDArray[np.float32]) -> None:
    bad = items.copy()
    bad[777, 3] = np.nan
    with pytest.raises(MgvrError, match="item 777 "):
        built(bad, "HNSW8")
    with pytest.raises(MgvrError, match=re.escape("items 0 and on have the shape (500, 16), not (n, 8)")):
        build(IndexConfig(factory="Flat"), cut(items, 500), N, 8)


@pytest.mark.parametrize("factory", ["IVF16,SQ8", "HNSW8", "OPQ4,IVF16,PQ4x4"])
def test_a_saved_index_finds_the_same(
    factory: str, items: NDArray[np.float32], queries: NDArray[np.float32], tmp_path: Path
) -> None:
    index = built(items, factory)
    save(index, tmp_path / "index", IDENTITY)
    again = load(tmp_path / "index", index.config, IDENTITY)
    assert content(again) == content(index)
    expected, found = search(index, queries, 30), search(again, queries, 30)
    assert np.array_equal(found.index, expected.index)
    assert np.array_equal(found.score, expected.score)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["index.faiss", "index.json"]


@pytest.mark.parametrize(
    ("factory", "hard"),
    [("IVF32,Flat", "nprobe=32"), ("OPQ4,IVF32_HNSW8,Flat", "nprobe=32"), ("HNSW4", "efSearch=500")],
)
def test_a_saved_index_is_searched_as_hard_as_it_is_told_now(
    factory: str, hard: str, items: NDArray[np.float32], queries: NDArray[np.float32], tmp_path: Path
) -> None:
    exact = coarse.search(queries, items, 10)
    plain, harder = IndexConfig(factory=factory), IndexConfig(factory=factory, search=hard)

    def recall(index: Index) -> float:
        return recall_at_k(search(index, queries, 10), exact)

    first = build(plain, cut(items, 500), N, D)
    save(first, tmp_path / "plain", IDENTITY)
    save(build(harder, cut(items, 500), N, D), tmp_path / "harder", IDENTITY)
    usual, most = recall(first), recall(load(tmp_path / "plain", harder, IDENTITY))
    assert usual < most
    assert recall(load(tmp_path / "harder", plain, IDENTITY)) == usual
    assert recall(load(tmp_path / "harder", harder, IDENTITY)) == most


@pytest.mark.parametrize(
    ("settings", "identity", "message"),
    [
        ({"factory": "HNSW16"}, {}, "factory: 'HNSW8' there, 'HNSW16' here"),
        ({"seed": 4}, {}, "seed: 0 there, 4 here"),
        ({"train_rows": 9}, {}, "train_rows: 100000 there, 9 here"),
        ({}, {"snapshot": 4}, "items.snapshot: 3 there, 4 here"),
        ({}, {"features": "f"}, "items.features: '0123abcd' there, 'f' here"),
        ({}, {"model": "m"}, "items.model: 'nothing' there, 'm' here"),
    ],
)
def test_an_index_of_other_items_is_refused_with_what_differs(
    settings: dict[str, Any], identity: dict[str, Any], message: str, items: NDArray[np.float32], tmp_path: Path
) -> None:
    save(built(items, "HNSW8"), tmp_path, IDENTITY)
    config = IndexConfig(**{"factory": "HNSW8", **settings})
    with pytest.raises(MgvrError, match=message) as caught:
        load(tmp_path, config, {**IDENTITY, **identity})
    assert str(caught.value).count("there,") == 1  # and nothing else


def test_an_index_of_another_faiss_is_refused(items: NDArray[np.float32], tmp_path: Path) -> None:
    index = built(items, "HNSW8")
    save(index, tmp_path, IDENTITY)
    file = tmp_path / "index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "faiss": "1.0"}))
    with pytest.raises(MgvrError, match=r"faiss: '1.0' there"):
        load(tmp_path, index.config, IDENTITY)


def test_what_is_no_whole_index_is_refused(
    items: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = built(items, "HNSW8")
    with pytest.raises(MgvrError, match="holds no whole index"):
        load(tmp_path / "nowhere", index.config, IDENTITY)
    save(index, tmp_path, IDENTITY)
    whole = (tmp_path / "index.faiss").read_bytes()
    (tmp_path / "index.faiss").write_bytes(whole[:-9])
    with pytest.raises(MgvrError, match=f"bytes: {len(whole)} there, {len(whole) - 9} here"):
        load(tmp_path, index.config, IDENTITY)
    (tmp_path / "index.faiss").write_bytes(bytes(len(whole)))
    with pytest.raises(MgvrError, match="can't be read"):
        load(tmp_path, index.config, IDENTITY)
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(MgvrError, match="not the description of an index"):
        load(tmp_path, index.config, IDENTITY)


def test_a_save_that_is_cut_off_leaves_nothing_to_be_taken_for_an_index(
    items: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the new items under the old description."""
    index = built(items, "HNSW8")
    save(index, tmp_path, IDENTITY)

    def cut_off(_: Any, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(faiss, "write_index", cut_off)
    with pytest.raises(KeyboardInterrupt):
        save(index, tmp_path, {**IDENTITY, "snapshot": 4})
    for snapshot in (3, 4):
        with pytest.raises(MgvrError, match="holds no whole index"):
            load(tmp_path, index.config, {**IDENTITY, "snapshot": snapshot})
    assert [path.name for path in tmp_path.iterdir()] == ["index.faiss"]


def test_recall_is_the_mean_share_of_the_exact_list_that_was_found() -> None:
    exact = Candidates(np.array([[0, 1, 2, 3], [4, 5, 6, 7]]), np.zeros((2, 4), np.float32))
    found = Candidates(np.array([[3, 2, 1, 9], [0, 1, 2, 4]]), np.zeros((2, 4), np.float32))
    assert recall_at_k(found, exact) == (3 + 1) / 8
