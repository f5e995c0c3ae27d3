"""Figures of a whole similarity matrix: read from a .npy file, ranked in both directions, corrected for hubs.

S (T, V): row t holds what query t has with every video of the pool, higher is better; rows and columns in the order of
the `Truth`. Video to text is the same matrix read by columns, which is all that a matrix has of it: a search in two
stages has a recall and a rerank of its own there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.hubness import CorrectionConfig, FloatArray, IntArray, correct
from mgvr_core.evaluation.metrics import Positions, concatenate, positions_from_scores
from mgvr_core.evaluation.truth import Truth

Matrix = NDArray[Any]
"""(rows, columns) of float16, float32 or float64; memory-mapped where it is a file's."""

_BLOCK = 1 << 22
"""Scores held at once."""
_SIZES = (2, 4, 8)


def open_matrix(path: Path) -> Matrix:
    """A .npy file of two dimensions, memory-mapped and never unpickled.

    Raises MgvrError where it can't be read, is something else, or holds other numbers than floats.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise MgvrError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise MgvrError(f"{path} is not a whole .npy file of numbers ({error}): write it with numpy.save") from None
    if not isinstance(found, np.ndarray):
        raise MgvrError(f"{path} is an archive of arrays (.npz): give one of them as a .npy file")
    if found.dtype.kind != "f" or found.dtype.itemsize not in _SIZES:
        raise MgvrError(f"{path} holds {found.dtype}: scores are float16, float32 or float64")
    if found.ndim != 2 or not found.size:
        raise MgvrError(
            f"{path} has the shape {found.shape}: a matrix of scores has queries as rows, videos as columns"
        )
    return found


def require_finite(
    scores: Matrix,
    path: Path,
    rows: Sequence[str],
    columns: Sequence[str],
    advice: str,
    places: Sequence[int] | None = None,
) -> None:
    """Raise MgvrError for the first NaN or infinite score, naming its row and column and saying how many there are.

    rows, columns: what they stand for. advice: what to do about it. places: where the rows stand in the file, which has
    more of them; None: they are all that it has.
    """
    first, total = None, 0
    for start, block in _blocks(scores):
        if (bad := np.argwhere(~np.isfinite(block))).size:
            first = first or (start + int(bad[0, 0]), int(bad[0, 1]))
            total += len(bad)
    if first is not None:
        row, column = first
        place, among = (row, "") if places is None else (places[row], f" in the {len(scores)} rows that are measured")
        raise MgvrError(
            f"{path}: the score in row {place} ({rows[row]}) and column {column} ({columns[column]}), counted from 0, "
            f"is {scores[row, column]}; {total} of {scores.size}{among} are NaN or infinite. {advice}"
        )


def text_to_video(scores: Matrix, truth: Truth) -> Positions:
    """Positions of the right videos in the rows of scores (T, V), all of them finite."""
    return concatenate(
        [positions_from_scores(block, truth.columns[start : start + len(block)]) for start, block in _blocks(scores)]
    )


def video_to_text(scores: Matrix, truth: Truth, *, single_captions: bool = False) -> Positions:
    """Positions of the right captions in the rows of scores (A, T), those of `truth.asking`, all of them finite.

    What is ranked are groups of captions with the same right videos, a group by its best caption; or single captions,
    which gives other figures: a video then has as many right answers as captions, and any of them counts.
    """
    relevant = [truth.captions[int(column)] for column in truth.asking]
    if not single_captions:
        relevant = [sorted({int(truth.groups[row]) for row in rows}) for rows in relevant]
    found = []
    for start, block in _blocks(scores):
        ranked = block if single_captions else best_of_groups(block, truth.groups)  # (B, T) or (B, G)
        found.append(positions_from_scores(ranked, relevant[start : start + len(block)]))
    return concatenate(found)


def best_of_groups(scores: Matrix, groups: IntArray) -> Matrix:
    """The largest score of each group of columns: (A, T) with groups (T,) numbered from 0 -> (A, G)."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    best: Matrix = np.maximum.reduceat(scores[:, order], starts, axis=1)
    return best


def corrected(config: CorrectionConfig, scores: Matrix, bank: Matrix | None = None) -> tuple[FloatArray, str]:
    """A matrix of the same shape after a correction of hubness, and how a table names that.

    bank: (B, columns), what training captions have with the same columns. Takes some 80 bytes a score while it works.
    Raises MgvrError for a score that is not finite, and for qb_norm without a bank.
    """
    lists = None if bank is None else (_whole(bank), np.asarray(bank))
    found, label = correct(config, _whole(scores), np.asarray(scores), lists)
    return found, f"{label}; {config.parameters}"


def best_lists(scores: Matrix, n: int) -> Iterator[list[int]]:
    """The columns of the n best scores of each row, best first; equal scores in the order of the columns."""
    for _, block in _blocks(scores):
        yield from np.argsort(-block, axis=1, kind="stable")[:, :n].tolist()


def first_columns(scores: Matrix) -> IntArray:
    """(rows,) the column of each row's best score; of equal ones the first."""
    return np.concatenate([block.argmax(axis=1) for _, block in _blocks(scores)])


def _blocks(scores: Matrix) -> Iterator[tuple[int, Matrix]]:
    """(first row, rows) of blocks that are read at once."""
    step = max(1, _BLOCK // scores.shape[1])
    for start in range(0, len(scores), step):
        yield start, np.asarray(scores[start : start + step])


def _whole(scores: Matrix) -> IntArray:
    """Lists of all columns, in their order: (rows, columns)."""
    return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
