"""Some shards of a feature set, searched and reranked in one process, whatever is small enough kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from mgvr_core.ahead import ahead
from mgvr_core.errors import MgvrError
from mgvr_core.features.schema import shape_of, tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.tokens import tensor_of
from mgvr_core.retrieval.certify import Promising, Reach, find_promising, upper_bounds
from mgvr_core.retrieval.coarse import Candidates, Standing, search_blocks, standing
from mgvr_core.retrieval.fine import fine_shard
from mgvr_core.retrieval.rerank import Reranker, score_pairs

BLOCK_ROWS = 1 << 17
"""Videos that meet the queries at once: 268 MB of fp32 at D = 512."""

_BOUNDED = 8192
"""Videos whose bounds are worked out at once, for up to 1024 texts."""

Pairs = Mapping[int, tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Pairs by the number of the shard that holds their videos: rows of the texts, rows of the shard, (M,) each."""


@dataclass(frozen=True)
class Block:
    """Coarse vectors of videos that follow one another in the part."""

    video: NDArray[np.float16]
    """(n, D), as stored."""
    order: NDArray[np.int64]
    """(n,) places in the order of all ids."""

    @property
    def wide(self) -> NDArray[np.float32]:
        """(n, D) in float32."""
        wide: NDArray[np.float32] = torch.from_numpy(self.video).float().numpy()
        return wide


class Part:
    """Some shards of a snapshot."""

    def __init__(
        self, snapshot: Snapshot, order: Mapping[int, NDArray[np.int64]], keep_bytes: int, device: str = "cpu"
    ) -> None:
        """order: shard number -> the places of its videos in the order of all ids.

        keep_bytes: of coarse vectors that may stay in memory; what is beyond them is read again by every search.
        """
        self._snapshot, self._order, self._device = snapshot, order, torch.device(device)
        self._codec = snapshot.codec()
        self._groups = list(_groups(order, BLOCK_ROWS))
        self._keep, self._kept = keep_bytes, dict[int, Block]()

    def search(self, queries: NDArray[np.float32], k: int) -> Candidates:
        """Stage 1 over these shards: queries (Q, D) -> the k best, or as many as there are."""
        return search_blocks(queries, ((block.wide, block.order) for block in self.blocks()), k)

    def standing(self, queries: NDArray[np.float32], truth: NDArray[np.float32]) -> Standing:
        """`coarse.standing` over these shards: queries (M, D), truth (M,)."""
        total = Standing(np.zeros(len(queries), np.int64), np.zeros(len(queries), np.int64))
        for block in self.blocks():
            total = total + standing(queries, block.wide, truth)
        return total

    def inner(self, queries: NDArray[np.float32], pairs: Pairs) -> dict[int, NDArray[np.float32]]:
        """Coarse scores of pairs: t^ W (Q, D) -> shard number -> (M,)."""
        found = {}
        for number, (query, row) in pairs.items():
            video = torch.from_numpy(self._coarse(number)[row]).float()
            found[number] = torch.linalg.vecdot(torch.from_numpy(queries[query]), video).numpy()
        return found

    def promising(
        self,
        reranker: Reranker,
        text: NDArray[np.float32],
        known: NDArray[np.int64],
        floor: NDArray[np.float32],
        room: int,
    ) -> Promising:
        """`certify.find_promising` over these shards, by the bounds that are stored beside the coarse vectors.

        text t^ (Q, D), known (Q, k) by places in the order of ids, floor (Q,). Raises MgvrError for a plain set.
        """
        if self._codec is None:
            raise MgvrError(f"{self._snapshot.url} keeps no bounds, which a certificate needs: recode it")
        texts = reranker.texts(tensor_of(text))
        met = texts.text
        if self._codec.config.values == "int8":  # the tokens meet the texts as they are rounded
            codes, scale = texts.int8
            met = codes.float() * scale.unsqueeze(1)

        def bounds(begin: int, end: int) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
            asked = met[begin:end], texts.projected[begin:end]
            for block, whole in zip(self.blocks(), self._reaches, strict=True):
                for at in range(0, len(block.order), _BOUNDED):
                    some = slice(at, at + _BOUNDED)
                    video = tensor_of(block.video[some]).float()
                    reach = Reach(whole.values[some], whole.mask[some], whole.patches)
                    yield block.order[some], upper_bounds(*asked, video, reach, reranker.weights, reranker.mixing)

        with torch.inference_mode():
            return find_promising(known, floor, bounds, room)

    def coarse(self, rows: Mapping[int, NDArray[np.int64]]) -> dict[int, NDArray[np.float32]]:
        """Coarse vectors of some videos: shard number -> rows (n,) -> (n, D) float32."""
        return {shard: self._coarse(shard)[wanted].astype(np.float32) for shard, wanted in rows.items()}

    def rerank(
        self,
        reranker: Reranker,
        text: NDArray[np.float32],
        pairs: Pairs,
        done: Callable[[int], object] = lambda number: None,
    ) -> dict[int, dict[str, NDArray[np.float32]]]:
        """Stage 2: text (T, D) -> shard number -> every weighted score and `fused` of its pairs, (M,) each.

        Each shard is read once, in order, while the one before it is scored. `done` is told how many pairs are scored.
        """
        result = {}
        columns = reranker.columns(self._codec)
        tables = ahead((self._read(shard, columns) for shard in sorted(pairs)), most=1)
        for number, table in zip(sorted(pairs), tables, strict=True):
            query, row = pairs[number]
            used, place = np.unique(query, return_inverse=True)
            with torch.inference_mode():
                texts = reranker.texts(tensor_of(text[used]).to(self._device))
                shard = fine_shard(table, self._codec).to(self._device)
                result[number] = score_pairs(reranker, texts, shard, place, row)
            done(len(query))
        return result

    def blocks(self) -> Iterator[Block]:
        """All coarse vectors, some shards at a time."""
        wanted = [number for number in range(len(self._groups)) if number not in self._kept]
        read = ahead((self._block(self._groups[number]) for number in wanted), most=1)
        for number in range(len(self._groups)):
            block = self._kept.get(number)
            if block is None:
                block = next(read)
                if sum(kept.video.nbytes for kept in self._kept.values()) + block.video.nbytes <= self._keep:
                    self._kept[number] = block
            yield block

    def _block(self, shards: Sequence[int]) -> Block:
        vectors = [self._coarse(shard) for shard in shards]
        return Block(np.concatenate(vectors), np.concatenate([self._order[shard] for shard in shards]))

    @cached_property
    def _reaches(self) -> list[Reach]:
        """What the bounds rest on, block by block: a twentieth of the coarse vectors, so that it stays."""
        shape = shape_of(self._snapshot.schema())
        found = []
        for shards in self._groups:
            tables = [self._read(shard, ["reach", "mask"]) for shard in shards]
            values, mask = (
                np.concatenate([tensor_column(table, name) for table in tables]) for name in ("reach", "mask")
            )
            found.append(Reach(torch.from_numpy(values), torch.from_numpy(mask).bool(), shape.frames * shape.patches))
        return found

    def _coarse(self, shard: int) -> NDArray[np.float16]:
        vectors: NDArray[np.float16] = tensor_column(self._read(shard, ["video"]), "video")
        return vectors

    def _read(self, shard: int, columns: list[str]) -> pa.Table:
        return self._snapshot.read_shard(self._snapshot.shards[shard], columns)


def _groups(order: Mapping[int, NDArray[np.int64]], rows: int) -> Iterator[list[int]]:
    """Shards in groups of at least so many rows, but for the last."""
    group: list[int] = []
    held = 0
    for shard in sorted(order):
        group.append(shard)
        held += len(order[shard])
        if held >= rows:
            yield group
            group, held = [], 0
    if group:
        yield group
