"""The folders of finished work: a job finds its own again, and what others left goes once this one is done."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.runtime import Stopwatch
from pipelines.work import earlier_seconds, keep_seconds, tidy, work_folder

MINE = {"features": "abc", "k": 50, "index": None}


def test_the_same_job_keeps_what_it_has_finished(tmp_path: Path) -> None:
    folder = work_folder(tmp_path, "lists", MINE)
    (folder / "finished-0").write_text("kept")
    assert work_folder(tmp_path, "lists", dict(reversed(MINE.items()))) == folder
    assert (folder / "finished-0").read_text() == "kept"
    assert folder.parent == tmp_path / "work"


def test_another_job_begins_anew_and_removes_the_rest_when_it_is_done(tmp_path: Path) -> None:
    texts, before = work_folder(tmp_path, "texts", {}), work_folder(tmp_path, "lists", MINE)
    (before / "finished-0").write_text("kept")
    after = work_folder(tmp_path, "lists", {**MINE, "k": 51})
    assert after != before
    assert not (after / "finished-0").exists()
    assert (before / "finished-0").exists()  # until the new one's answers are there
    tidy(tmp_path, (texts, after))
    assert sorted((tmp_path / "work").iterdir()) == sorted([texts, after])


def test_the_folder_says_whose_work_it_holds(tmp_path: Path) -> None:
    assert json.loads((work_folder(tmp_path, "lists", MINE) / "identity.json").read_text()) == MINE


def test_what_is_not_work_of_a_job_stays(tmp_path: Path) -> None:
    """A folder that someone else made there; and work that a kill left without its identity goes."""
    (tmp_path / "work" / "notes").mkdir(parents=True)
    (tmp_path / "work" / "notes" / "mine.txt").write_text("keep")
    half = work_folder(tmp_path, "lists", MINE)
    (half / "identity.json").unlink()
    tidy(tmp_path, ())
    assert (tmp_path / "work" / "notes" / "mine.txt").read_text() == "keep"
    assert not half.exists()


def test_the_time_of_finished_work_is_that_of_all_its_runs(tmp_path: Path) -> None:
    first, second = Stopwatch(), Stopwatch()
    earlier_seconds(tmp_path, first)
    first.seconds |= {"rerank": 3.0, "report": 1.0}
    keep_seconds(tmp_path, first, ("rerank", "search"))
    earlier_seconds(tmp_path, second)
    assert second.seconds == {"rerank": 3.0}
