"""Arrays on disk with one row a text or a pair, filled block by block: what is finished stays finished.

They may be larger than memory: rows are mapped, and read where they are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from mgvr_core.files import placing

Column = tuple[type[np.generic], tuple[int, ...]]
"""The type of a column's numbers, and the shape of a row."""


class Rows:
    """Columns of the same number of rows in a folder, and which blocks of rows are finished."""

    def __init__(self, folder: Path, total: int, block: int, columns: Mapping[str, Column]) -> None:
        """Open what an earlier run of the same job left in the folder, or make it."""
        self._folder, self.total, self._block = folder, total, block
        folder.mkdir(parents=True, exist_ok=True)
        self._arrays = {name: self._open(name, *column) for name, column in columns.items()}

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A column, (total, …), mapped."""
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self._arrays

    @property
    def finished(self) -> int:
        """Rows that are finished."""
        unfinished = sum(rows.stop - rows.start for rows in self.unfinished())
        return int(self.total - unfinished)

    def unfinished(self) -> Iterator[slice]:
        """The blocks of rows that are still to be made, in order."""
        for begin in range(0, self.total, self._block):
            if not self._mark(begin).exists():
                yield slice(begin, min(begin + self._block, self.total))

    def finish(self, rows: slice, values: Mapping[str, NDArray[Any]]) -> None:
        """Write a block of rows, all columns, and only then note that it is finished."""
        for name, array in self._arrays.items():
            array[rows] = values[name]
            if isinstance(array, np.memmap):  # an array without a row can't be mapped
                array.flush()
        with placing(self._mark(rows.start)) as partial:
            partial.touch()

    def _mark(self, begin: int) -> Path:
        return self._folder / f"finished-{begin:012d}"

    def _open(self, name: str, kind: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
        path, whole = self._folder / f"{name}.npy", (self.total, *shape)
        if 0 in whole:
            return np.empty(whole, kind)
        if not path.exists():
            with placing(path) as partial:
                open_memmap(partial, "w+", dtype=kind, shape=whole)
        return open_memmap(path, "r+")
