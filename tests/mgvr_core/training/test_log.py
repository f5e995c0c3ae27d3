"""The log of a run that was stopped holds every step once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgvr_core.errors import MgvrError
from mgvr_core.training import log


def step(number: int, loss: float = 1.0) -> dict[str, object]:
    return {"kind": "step", "step": number, "loss": loss}


def test_steps_that_are_taken_again_are_forgotten_first(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    for record in (step(1), step(2), {"kind": "epoch", "step": 2}, {"kind": "resume", "step": 2}, step(3), step(4)):
        log.append(file, record)
    log.rewind(file, 2)
    assert [(record["kind"], record["step"]) for record in log.read(file)] == [
        ("step", 1),
        ("step", 2),
        ("epoch", 2),
        ("resume", 2),
    ]
    log.append(file, step(3, 0.5))
    assert log.read(file)[-1] == step(3, 0.5)


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    log.append(file, step(1))
    with file.open("a") as torn:
        torn.write('{"kind": "step", "st')
    assert log.read(file) == [step(1)]
    log.rewind(file, 1)
    log.append(file, step(2))
    assert log.read(file) == [step(1), step(2)]


def test_a_broken_line_within_is_named(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    log.append(file, step(1))
    with file.open("a") as torn:
        torn.write('{"kind"\n')
    log.append(file, step(2))
    with pytest.raises(MgvrError, match=r"metrics\.jsonl, line 2 is not JSON"):
        log.rewind(file, 1)


def test_a_figure_is_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    log.append(file, step(1, 0.1 + 0.2))
    log.rewind(file, 1)
    assert log.read(file)[0]["loss"] == 0.1 + 0.2
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append(file, step(2, float("nan")))
    assert log.read(tmp_path / "nowhere.jsonl") == []
