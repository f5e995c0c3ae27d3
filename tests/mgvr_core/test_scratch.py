"""Files for a moment, and what becomes of those whose process was killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mgvr_core.scratch import new_file, sweep


def test_what_a_killed_process_left_is_swept_and_what_others_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = new_file(".mp4")
    assert mine.suffix == ".mp4"
    foreign = tmp_path / "mgvr-report-of-mine"
    foreign.touch()
    program = (
        "import os, tempfile; from mgvr_core.scratch import new_file;"
        f"tempfile.tempdir = {str(tmp_path)!r}; print(new_file(), flush=True); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    left = Path(killed.stdout.strip())
    assert left.exists()
    sweep()
    assert sorted(tmp_path.iterdir()) == sorted([mine, foreign])
