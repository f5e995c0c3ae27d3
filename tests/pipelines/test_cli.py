"""The command `mgvr`: finding the job, and the exit status of the process."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines import cli

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in ("demo", "encode", "train", "retrieve", "doctor"))


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help_is_no_failure(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 0
    assert capsys.readouterr().out.startswith("usage: mgvr COMMAND")


def test_its_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mgvr {version('mgvr')}\n"


def test_an_unknown_command_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["retreive", "--k", "5"]) == 2
    assert "no command 'retreive'; did you mean retrieve?" in capsys.readouterr().err


def test_the_rest_of_the_line_and_the_exit_code_are_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    job = SimpleNamespace(run=lambda argv: seen.append(argv) or 7)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: job if name == "pipelines.encode" else None)
    assert cli.main(["encode", "a.yaml", "--out", "x"]) == 7
    assert seen == [["a.yaml", "--out", "x"]]


def test_the_process_ends_with_the_code_and_starts_no_ray(tmp_path: Path) -> None:
    """The whole command as a user types it: what is refused costs seconds, and leaves nothing behind."""
    program = (
        "import sys, ray; from pipelines.cli import main; code = main(sys.argv[1:]); "
        "assert not ray.is_initialized(); sys.exit(code)"
    )
    call = [sys.executable, "-c", program, "encode", "--corpus.url", "videos", "--out", str(tmp_path / "out")]
    ended = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert (
        ended.stderr
        == "mgvr encode: unknown option --corpus.url; did you mean corpus.uri? mgvr encode --help lists them all.\n"
    )
    assert not list(tmp_path.iterdir())
