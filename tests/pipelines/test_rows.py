"""Rows on disk: a finished block stays finished, one that was cut off is made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.rows import Column, Rows

COLUMNS: dict[str, Column] = {"index": (np.int64, (3,)), "score": (np.float32, (3,)), "certified": (np.bool_, ())}


def values(rows: slice) -> dict[str, NDArray[Any]]:
    """What belongs into some rows."""
    number = np.arange(rows.start, rows.stop)
    index = 3 * number[:, None] + np.arange(3)
    return {"index": index, "score": (index / 7).astype(np.float32), "certified": number % 2 == 0}


def require_whole(rows: Rows) -> None:
    assert rows.finished == rows.total
    assert list(rows.unfinished()) == []
    for name, expected in values(slice(0, rows.total)).items():
        assert rows[name].dtype == expected.dtype
        assert np.array_equal(rows[name], expected)


@settings(deadline=None, max_examples=40)
@given(total=st.integers(0, 23), block=st.integers(1, 25), runs=st.lists(st.integers(0, 3), max_size=4))
def test_runs_that_stop_anywhere_make_every_block_once(
    tmp_path_factory: pytest.TempPathFactory, total: int, block: int, runs: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    made: list[slice] = []
    for stop in [*runs, total]:  # each run makes so many blocks, and the last one the rest
        rows = Rows(folder, total, block, COLUMNS)
        assert rows.finished == sum(part.stop - part.start for part in made)
        for part in list(rows.unfinished())[:stop]:
            rows.finish(part, values(part))
            made.append(part)
    assert [number for part in made for number in range(part.start, part.stop)] == list(range(total))
    require_whole(Rows(folder, total, block, COLUMNS))


def test_blocks_may_be_finished_in_any_order(tmp_path: Path) -> None:
    rows = Rows(tmp_path, 10, 4, COLUMNS)
    for part in (slice(8, 10), slice(0, 4)):
        rows.finish(part, values(part))
    assert list(Rows(tmp_path, 10, 4, COLUMNS).unfinished()) == [slice(4, 8)]
    assert Rows(tmp_path, 10, 4, COLUMNS).finished == 6


@pytest.mark.parametrize("failing", list(COLUMNS))
def test_a_block_that_was_cut_off_is_made_again(tmp_path: Path, failing: str) -> None:
    """Some of its columns are written, or half of one: without its mark none of that counts."""
    rows = Rows(tmp_path, 10, 4, COLUMNS)
    rows.finish(slice(0, 4), values(slice(0, 4)))
    broken = {name: 0 * kept for name, kept in values(slice(4, 8)).items()}
    del broken[failing]
    with pytest.raises(KeyError):
        rows.finish(slice(4, 8), broken)
    again = Rows(tmp_path, 10, 4, COLUMNS)
    again["score"][8:9] = -1
    assert list(again.unfinished()) == [slice(4, 8), slice(8, 10)]
    for part in again.unfinished():
        again.finish(part, values(part))
    require_whole(Rows(tmp_path, 10, 4, COLUMNS))


def test_columns_that_were_cut_off_while_being_made_are_made_again(tmp_path: Path) -> None:
    whole = Rows(tmp_path / "whole", 10, 4, COLUMNS)
    for part in whole.unfinished():
        whole.finish(part, values(part))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "index.npy").write_bytes((tmp_path / "whole" / "index.npy").read_bytes())
    rows = Rows(tmp_path / "cut", 10, 4, COLUMNS)
    assert rows.finished == 0
    for part in rows.unfinished():
        rows.finish(part, values(part))
    require_whole(rows)


def test_a_reader_sees_what_another_has_finished(tmp_path: Path) -> None:
    writer, reader = Rows(tmp_path, 10, 4, COLUMNS), Rows(tmp_path, 10, 4, COLUMNS)
    for part in writer.unfinished():
        writer.finish(part, values(part))
        assert reader.finished == part.stop
        for name, expected in values(part).items():
            assert np.array_equal(reader[name][part], expected)
    require_whole(reader)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_no_row_at_all_is_finished_at_once(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """No right answer is known of a plain search."""
    rows = Rows(tmp_path, 0, 4, {"better": (np.int64, shape)})
    assert (rows.finished, list(rows.unfinished())) == (0, [])
    assert rows["better"].shape == (0, *shape)


def test_it_says_which_columns_there_are(tmp_path: Path) -> None:
    rows = Rows(tmp_path, 1, 1, COLUMNS)
    assert "score" in rows
    assert "final_index" not in rows
