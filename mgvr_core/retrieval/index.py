"""Stage 1, approximate: a faiss index by inner product, built block by block and kept on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from mgvr_core.config import Section
from mgvr_core.errors import MgvrError
from mgvr_core.files import placing, replacing
from mgvr_core.retrieval.coarse import Candidates, merge, search_blocks

Blocks = Callable[[], Iterator[NDArray[np.float16] | NDArray[np.float32]]]
"""Items from the first to the last, in blocks (n, D); called once a pass."""

_BATCH = 16384
"""Items that are added at once, however they come: an HNSW graph depends on it."""
_EFFORT = ("nprobe", "max_codes", "polysemous_ht", "k_factor", "efSearch")
"""What a search setting sets, in an index or in its graph; faiss stores it with the index."""
_FEWEST_LINKS = 4
"""Of a node of an HNSW graph. faiss ends the process at 0 and 1, without an exception."""


def _known(factory: str) -> str:
    try:
        faiss.index_factory(512, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        # What else it may object to depends on the items' size, which is not known yet.
        if "could not parse" in str(error):
            raise ValueError(f"{factory!r} is no faiss index; try HNSW32, or IVF1024,SQ8") from None
    return factory


class IndexConfig(Section):
    """An approximate index for stage 1."""

    factory: Annotated[str, AfterValidator(_known)] = Field(
        description="faiss's name of an index: HNSW32, IVF1024,Flat, IVF256,SQ8, OPQ16,IVF64,PQ16 ..."
    )
    search: str | None = Field(
        None, description="how hard to search: nprobe=16, efSearch=64 ...; none: faiss's default"
    )
    train_rows: int = Field(100_000, gt=0, description="videos, drawn at random, that the index is trained with")
    seed: int = Field(0, ge=0, description="seed of that draw")
    sample: int = Field(1000, gt=0, description="queries whose recall@k against the exact search is measured")


@dataclass(frozen=True)
class Index:
    """N items of D dimensions, to be searched by inner product.

    Searching is not safe in several threads at a time: what is hard to find is searched harder for a while.
    """

    config: IndexConfig
    raw: Any
    """The faiss index. An item's id is its row."""

    @property
    def rows(self) -> int:
        """N."""
        return int(self.raw.ntotal)


def check(config: IndexConfig, rows: int, dim: int) -> None:
    """Raises MgvrError where no index of this kind can hold `rows` items of `dim` dimensions, before any is read."""
    _empty(config, rows, dim)


def build(config: IndexConfig, blocks: Blocks, rows: int, dim: int) -> Index:
    """An index of all items in the order that they come: N = rows, D = dim.

    Blocks are read once, and once more before if the index must be trained; beside one block it holds the training
    rows in fp32, then a batch of items. How the items are cut into blocks has no influence.

    The same seed and items give the same bytes with one thread (faiss.omp_set_num_threads(1)), which is the caller's
    to set. With several, a trained rotation (OPQ) is another one for another number of threads, and an HNSW graph may
    depend on which thread is first. The seed chooses the training rows and their order, and so where k-means starts;
    faiss's own seeds are constants. An index that needs no training does not depend on it.

    Raises MgvrError for a factory that is wrong for these items, or needs more training rows; for items of another
    size or number, and for one that is not finite.
    """
    raw = _empty(config, rows, dim)
    if not raw.is_trained:
        _train(raw, config, _sample(config, blocks, rows, dim))
    for batch in _batches(blocks, rows, dim):
        try:
            raw.add(batch)
        except RuntimeError as error:
            raise _refused(config, f"can't be filled block by block: {_reason(error)}") from None
    return _searching(config, raw)


def save(index: Index, folder: Path, identity: Mapping[str, Any]) -> None:
    """Write index.faiss and index.json, which says what the index is of.

    identity: what identifies the items, as JSON values: their features' digest, the snapshot, their number. index.json
    comes last, so that a killed job leaves no index that could be taken for a whole one.
    """
    description = folder / "index.json"
    description.unlink(missing_ok=True)
    with placing(folder / "index.faiss") as partial:
        faiss.write_index(index.raw, str(partial))
        size = partial.stat().st_size
    with replacing(description) as file:
        json.dump({**_made_by(index.config), "bytes": size, "items": dict(identity)}, file, indent=2, sort_keys=True)


def load(folder: Path, config: IndexConfig, expected: Mapping[str, Any]) -> Index:
    """The index that `save` wrote, if it is the one that `config` would build of the items that `expected` identifies.

    config.search need not be that of the build. Raises MgvrError that names what differs, or what is missing.
    """
    description, file = folder / "index.json", folder / "index.faiss"
    again = f"build the index anew, or delete {folder}"
    try:
        found = json.loads(description.read_text(encoding="utf-8"))
        size = file.stat().st_size
        stored = {**found, **{f"items.{key}": value for key, value in found["items"].items()}}
    except OSError as error:
        raise MgvrError(f"{folder} holds no whole index ({error.strerror}: {error.filename}); {again}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise MgvrError(f"{description} is not the description of an index; {again}") from None
    identity = json.loads(json.dumps(dict(expected)))  # as it would be read back
    wanted = {**_made_by(config), "bytes": size, **{f"items.{key}": value for key, value in identity.items()}}
    keys = [*wanted, *(key for key in stored if key.startswith("items.") and key not in wanted)]
    absent = "nothing"
    differ = [
        f"{key}: {stored.get(key, absent)!r} there, {wanted.get(key, absent)!r} here"
        for key in keys
        if stored.get(key, absent) != wanted.get(key, absent)
    ]
    if differ:
        raise MgvrError("\n  ".join([f"the index in {folder} is another one; {again}", *differ]))
    try:
        raw = faiss.read_index(str(file))
    except RuntimeError as error:
        raise MgvrError(f"{file} can't be read: {_reason(error)}; {again}") from None
    return _searching(config, raw)


def search(index: Index, queries: NDArray[np.float32], k: int) -> Candidates:
    """The min(k, N) best items that the index finds of every query (Q, D), by inner product; equal scores by index.

    Scores are those of what the index keeps: exact for Flat storage, rounded for SQ and PQ. Which of several items that
    tie for the last place it finds is the index's own affair.

    Every list is full. A query for which the index finds fewer than k items is asked again with twice the nprobe, until
    all lists of an IVF index are searched; if it is still short, or there are no such lists, it is compared with every
    item, as the index keeps it.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    k = min(k, index.rows)
    score, row = index.raw.search(queries, k)
    short = np.flatnonzero((row < 0).any(axis=1))
    ivf = faiss.try_extract_index_ivf(index.raw)
    if len(short) and ivf is not None:
        usual = ivf.nprobe
        try:
            while len(short) and ivf.nprobe < ivf.nlist:
                ivf.nprobe = min(2 * ivf.nprobe, ivf.nlist)
                score[short], row[short] = index.raw.search(queries[short], k)
                short = short[(row[short] < 0).any(axis=1)]
        finally:
            ivf.nprobe = usual
    if len(short):
        found = _exhaustive(index, queries[short], k)
        score[short], row[short] = found.score, found.index
    return merge([Candidates(row, score)], k)


def recall_at_k(found: Candidates, exact: Candidates) -> float:
    """The mean over Q queries, from 0 to 1, of the share of exact's k items that were found; in any order."""
    span = max(int(found.index.max()), int(exact.index.max())) + 1
    first = span * np.arange(len(exact.index))[:, None]  # (Q, 1): no two queries share a number
    return float(np.isin(exact.index + first, found.index + first).mean())


def _exhaustive(index: Index, queries: NDArray[np.float32], k: int) -> Candidates:
    starts = range(0, index.rows, _BATCH)
    sizes = (min(_BATCH, index.rows - begin) for begin in starts)
    blocks = (
        (index.raw.reconstruct_n(begin, number), begin + np.arange(number))  # (n, D), (n,)
        for begin, number in zip(starts, sizes, strict=True)
    )
    return search_blocks(queries, blocks, k)


def _empty(config: IndexConfig, rows: int, dim: int) -> Any:
    """An index without items, and not trained."""
    if not rows:
        raise _refused(config, "has nothing to hold: there is no item")
    try:
        raw = faiss.index_factory(dim, config.factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise _refused(config, f"can't hold items of {dim} dimensions by inner product: {_reason(error)}") from None
    for part in _parts(raw):
        if part.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise _refused(config, "does not search by inner product")
        if isinstance(part, faiss.IndexIDMap | faiss.IndexIDMap2 | faiss.IndexNSG):
            raise _refused(config, "can't be filled block by block")
        if isinstance(part, faiss.IndexHNSW) and _links(part) < _FEWEST_LINKS:
            raise _refused(config, f"has too few links a node; HNSW takes {_FEWEST_LINKS} and more, HNSW32 is usual")
        if isinstance(part, faiss.IndexPreTransform):
            _check_transforms(config, part)
    ivf = faiss.try_extract_index_ivf(raw)
    if ivf is not None:
        if ivf.nlist < 1:
            raise _refused(config, "has no lists: IVF takes a number of 1 and more")
        _enough(config, min(rows, config.train_rows), ivf.nlist, rows)
    _searching(config, raw)
    return raw


def _parts(raw: Any) -> Iterator[Any]:
    """An index and those within it."""
    raw = faiss.downcast_index(raw)
    yield raw
    for name in ("index", "base_index", "refine_index", "quantizer", "storage"):
        if (inner := getattr(raw, name, None)) is not None:
            yield from _parts(inner)


def _links(part: Any) -> int:
    """The M of an HNSW graph, whose lowest level has 2 M links a node; 0 where it has no levels."""
    until = faiss.vector_to_array(part.hnsw.cum_nneighbor_per_level)
    return int(until[1]) // 2 if len(until) > 1 else 0


def _check_transforms(config: IndexConfig, part: Any) -> None:
    """What is done to queries and items alike must keep their inner products, or approximate them."""
    for place in range(part.chain.size()):
        transform = faiss.downcast_VectorTransform(part.chain.at(place))
        rotation = isinstance(transform, faiss.LinearTransform) and not transform.have_bias
        if not rotation and not isinstance(transform, faiss.RemapDimensionsTransform):
            raise _refused(config, "centres or normalises vectors, which changes inner products; OPQ and RR do not")


def _searching(config: IndexConfig, raw: Any) -> Index:
    """Searched as hard as `config` says, and not as it was when it was stored."""
    fresh = faiss.index_factory(raw.d, config.factory, faiss.METRIC_INNER_PRODUCT)
    for part, usual in zip(_parts(raw), _parts(fresh), strict=True):
        for mine, its in ((part, usual), (getattr(part, "hnsw", None), getattr(usual, "hnsw", None))):
            for name in _EFFORT:
                if hasattr(mine, name):
                    setattr(mine, name, getattr(its, name))
    if config.search is not None:
        try:
            space: Any = faiss.ParameterSpace()
            space.set_index_parameters(raw, config.search)
        except RuntimeError as error:
            raise MgvrError(
                f"search: {config.search!r} does not fit the index {config.factory}: {_reason(error)}. "
                "IVF takes nprobe=16, HNSW takes efSearch=64"
            ) from None
    return Index(config, raw)


def _sample(config: IndexConfig, blocks: Blocks, rows: int, dim: int) -> NDArray[np.float32]:
    """The training rows (n, D), in random order."""
    random = np.random.default_rng(config.seed)
    chosen = random.choice(rows, min(rows, config.train_rows), replace=False)
    ascending = np.sort(chosen)
    sample = np.empty((len(chosen), dim), np.float32)
    begin = 0
    for batch in _batches(blocks, rows, dim):
        low, high = np.searchsorted(ascending, [begin, begin + len(batch)])
        sample[low:high] = batch[ascending[low:high] - begin]
        begin += len(batch)
    return sample[np.searchsorted(ascending, chosen)]


def _train(raw: Any, config: IndexConfig, sample: NDArray[np.float32]) -> None:
    try:
        raw.train(sample)
    except RuntimeError as error:
        if few := re.search(
            r"points \((\d+)\) should be at least as large as number of clusters \((\d+)\)", str(error)
        ):
            _enough(config, int(few[1]), int(few[2]), None)
        raise _refused(config, f"can't be trained with {len(sample)} rows: {_reason(error)}") from None


def _enough(config: IndexConfig, given: int, needed: int, rows: int | None) -> None:
    if given < needed:
        pool = "" if rows is None else f" of a pool of {rows} videos"
        raise _refused(
            config,
            f"needs at least {needed} training rows and gets {given}{pool}: raise train_rows "
            f"({config.train_rows}), or take fewer lists or bits, or no index for so few videos",
        )


def _batches(blocks: Blocks, rows: int, dim: int) -> Iterator[NDArray[np.float32]]:
    """The items in fp32, in batches of one size whatever that of the blocks; the next one overwrites the last."""
    batch = np.empty((min(_BATCH, rows), dim), np.float32)
    filled = seen = 0
    for block in blocks():
        if block.ndim != 2 or block.shape[1] != dim:
            raise MgvrError(f"items {seen} and on have the shape {block.shape}, not (n, {dim})")
        bad = ~np.isfinite(block).all(axis=1)
        if bad.any():
            raise MgvrError(
                f"item {seen + int(bad.argmax())} (counted from 0) is NaN or infinite and can't be indexed; check the "
                "features with mgvr corpus verify, and the model that made them"
            )
        seen += len(block)
        if seen > rows:
            break
        while len(block):
            number = min(len(block), len(batch) - filled)
            batch[filled : filled + number] = block[:number]
            block, filled = block[number:], filled + number
            if filled == len(batch):
                yield batch
                filled = 0
    if seen != rows:
        raise MgvrError(f"the index is to hold {rows} items, but {seen}{' or more' if seen > rows else ''} came")
    if filled:
        yield batch[:filled]


def _made_by(config: IndexConfig) -> dict[str, Any]:
    """What an index depends on beside its items."""
    return {
        "factory": config.factory,
        "seed": config.seed,
        "train_rows": config.train_rows,
        "faiss": faiss.__version__,
    }


def _refused(config: IndexConfig, why: str) -> MgvrError:
    return MgvrError(f"the index {config.factory} (factory) {why}")


def _reason(error: RuntimeError) -> str:
    """What faiss objects to, without the place in its source."""
    return re.split(r"\.cpp:\d+: ", str(error))[-1].strip()
