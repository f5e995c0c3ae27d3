"""Which caption meets which video in which step: a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mgvr_core.identity import hash_lines

CaptionUse = Literal["expand", "sample"]
"""expand: every caption with its video is a pair of its own. sample: one caption of each video an epoch."""

Pair = tuple[str, str]
"""A video's id and a caption of it."""


@dataclass(frozen=True)
class Captioned:
    """Videos with their captions, as an Arrow table that a million of them fit into and travel in."""

    table: pa.Table
    """id (string), captions (list of strings, none empty)."""
    use: CaptionUse = "expand"

    @classmethod
    def of(cls, videos: Iterable[tuple[str, Sequence[str]]], use: CaptionUse = "expand") -> Captioned:
        """From (id, captions) of each video; a video without a caption is left out."""
        rows = [(name, list(captions)) for name, captions in videos if captions]
        types = {"id": pa.string(), "captions": pa.list_(pa.string())}
        columns = ([name for name, _ in rows], [captions for _, captions in rows])
        return cls(pa.table(list(columns), schema=pa.schema(list(types.items()))).combine_chunks(), use)

    def __getstate__(self) -> dict[str, object]:
        """The table alone travels, without the lists that were made of it."""
        return {"table": self.table, "use": self.use}

    def __len__(self) -> int:
        """Pairs in an epoch."""
        return self.videos if self.use == "sample" else int(self._starts[-1])

    @property
    def videos(self) -> int:
        """Videos."""
        return int(self.table.num_rows)

    @cached_property
    def ids(self) -> list[str]:
        """The videos' ids."""
        return list(self.table["id"].to_pylist())

    @cached_property
    def captions(self) -> list[str]:
        """All captions, those of one video after those of another."""
        return list(self.table["captions"].combine_chunks().flatten().to_pylist())

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """(captions,) the row of each caption's video."""
        return np.repeat(np.arange(self.videos), np.diff(self._starts))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """(videos + 1,) where each video's captions begin among all."""
        lengths = self.table["captions"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def epoch(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """(pairs,) rows of `captions` in the order of an epoch; no row comes twice.

        The order is drawn anew for every epoch. With `sample` so is each video's caption, evenly and by itself.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(self))
        if self.use == "expand":
            return order
        chosen = np.random.default_rng([seed, epoch, 1]).integers(np.diff(self._starts))
        return np.asarray((self._starts[:-1] + chosen)[order])

    def pairs(self, rows: Iterable[int]) -> list[Pair]:
        """The pairs behind rows of `captions`."""
        return [(self.ids[self.owner[row]], self.captions[row]) for row in rows]

    def digest(self) -> str:
        """Tells two training sets apart: ids, captions, their order and their use."""
        rows = zip(self.ids, self.table["captions"], strict=True)
        return hash_lines(self.use, ([name, captions.as_py()] for name, captions in rows))


@dataclass(frozen=True)
class Batches:
    """The steps of a training: whole batches of every epoch, shared equally by the workers.

    The pairs that make no whole batch sit out, other ones every epoch.
    """

    captioned: Captioned
    batch_size: int
    """Pairs in a batch, over all workers."""
    epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return len(self.captioned) // self.batch_size

    @property
    def steps(self) -> int:
        """Batches in all epochs."""
        return self.steps_per_epoch * self.epochs

    def shares(self, epoch: int, begin: int, rank: int, workers: int) -> list[NDArray[np.int64]]:
        """One worker's rows of each batch of an epoch, from step `begin` of the epoch on.

        Every worker gets `batch_size / workers` rows of each batch; together, in the order of ranks, they are the
        batch that one worker would take.
        """
        order = self.captioned.epoch(self.seed, epoch)
        share = self.batch_size // workers
        firsts = [step * self.batch_size + rank * share for step in range(begin, self.steps_per_epoch)]
        return [order[first : first + share] for first in firsts]
