"""The folder of finished work: the same job finds its own again, and what another job left is gone."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.work import work_folder

MINE = {"features": "abc", "k": 50, "index": None}


def test_the_same_job_keeps_what_it_has_finished(tmp_path: Path) -> None:
    folder = work_folder(tmp_path, MINE)
    (folder / "lists").mkdir()
    (folder / "lists" / "finished-0").write_text("kept")
    assert work_folder(tmp_path, dict(reversed(MINE.items()))) == folder
    assert (folder / "lists" / "finished-0").read_text() == "kept"
    assert folder.parent == tmp_path / "work"


def test_another_job_begins_anew_and_removes_the_work_that_nobody_goes_on_from(tmp_path: Path) -> None:
    before = work_folder(tmp_path, MINE)
    (before / "lists").mkdir()
    after = work_folder(tmp_path, {**MINE, "k": 51})
    assert after != before
    assert list((tmp_path / "work").iterdir()) == [after]
    assert not (after / "lists").exists()
    assert list(work_folder(tmp_path, MINE).iterdir()) == [before / "identity.json"]


def test_the_folder_says_whose_work_it_holds(tmp_path: Path) -> None:
    assert json.loads((work_folder(tmp_path, MINE) / "identity.json").read_text()) == MINE


def test_what_is_not_work_of_a_job_stays(tmp_path: Path) -> None:
    """A folder that someone else made there."""
    (tmp_path / "work" / "notes").mkdir(parents=True)
    (tmp_path / "work" / "notes" / "mine.txt").write_text("keep")
    work_folder(tmp_path, MINE)
    work_folder(tmp_path, {})
    assert (tmp_path / "work" / "notes" / "mine.txt").read_text() == "keep"
