"""mgvr scorers: the table of every scorer, and one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgvr_core.scorers.catalogue import catalogue, find
from pipelines.scorers import run, table

ROOT = Path(__file__).resolve().parents[2]


def test_the_documentation_shows_the_table() -> None:
    assert table() in (ROOT / "docs/scorers.md").read_text(encoding="utf-8")


def test_every_scorer_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(catalogue())
    assert next(line for line in lines if line.startswith("x_pool")).split()[-3:] == ["K", "1.32", "M"]


def test_one_scorer_says_what_it_is_and_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--name", "x_pool"]) == 0
    shown = capsys.readouterr().out
    assert find("x_pool").source in shown
    assert find("x_pool").formula in shown
    assert run(["--name", "xpool"]) == 2
    assert "did you mean x_pool" in capsys.readouterr().err
