"""Whole files or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgvr_core.files import placing, replacing, sync


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    with replacing(path) as file:
        file.write("half")
        file.flush()
        assert not path.exists()
        file.write(", whole")
    assert path.read_text() == "half, whole"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_the_file_before_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.arrow"
    path.write_text("before")

    def fail() -> None:
        with placing(path) as partial:
            partial.write_text("half")
            # Readers look for names like the file's: one that is not whole has none.
            assert partial not in set(tmp_path.glob("*.arrow"))
            raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_files_and_folders_can_be_brought_to_the_disk(tmp_path: Path) -> None:
    with replacing(tmp_path / "file") as file:
        file.write("text")
    sync(tmp_path / "file")
    sync(tmp_path)
