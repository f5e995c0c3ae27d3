"""The line that a job prints while it works."""

from __future__ import annotations

import pytest
import ray

from pipelines import progress as module
from pipelines.progress import describe, progress


def test_a_line_tells_how_far_how_fast_and_how_long() -> None:
    line = describe("encode", {"decoded": 40, "encoded": 30, "failed": 0}, total=90, counted="encoded", seconds=10)
    assert line == "encode: encoded 30 of 90, decoded 40; 3.0/s, about 20 s left"


def test_failures_are_shown_once_there_are_any() -> None:
    assert "failed 2" in describe("encode", {"encoded": 1, "failed": 2}, 9, "encoded", 1)


def test_what_an_earlier_run_had_done_is_not_counted_as_fast() -> None:
    line = describe("train", {"steps": 60, "resumed": 50}, total=90, counted="steps", seconds=10)
    assert line == "train: steps 60 of 90, resumed 50; 1.0/s, about 30 s left"


@pytest.mark.parametrize("seconds", [0, 5])
def test_before_anything_is_done_nothing_is_promised(seconds: float) -> None:
    assert describe("train", {}, 8, "steps", seconds) == "train: steps 0 of 8; 0.0/s"


def test_counts_of_many_workers_add_up_and_are_printed(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_EVERY_LOG", 0.01)
    printed = ""
    with progress("test", 5, "done") as counter:
        ray.get([counter.add.remote("done", 2), counter.add.remote("done", 3), counter.set.remote("loss", 0.25)])
        assert ray.get(counter.read.remote()) == {"done": 5, "loss": 0.25}
        while "loss" not in printed:
            printed += capsys.readouterr().err
    assert "test: done 5 of 5, loss 0.25;" in printed
    assert "\r" not in printed  # a log, not a terminal: each line stays


def test_the_printer_ends_with_the_block_whatever_happens(ray_cluster: None) -> None:
    import threading

    before = threading.active_count()
    with pytest.raises(ValueError, match="in the job"), progress("test", 1, "done"):
        raise ValueError("in the job")
    assert threading.active_count() == before
