"""Folders in which a job keeps what it has finished, apart from the work of any job that asks for something else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mgvr_core.files import placing
from mgvr_core.identity import hash_json
from pipelines.runtime import Stopwatch

_NAMED = re.compile("[a-z]+-[0-9a-f]{16}")


def work_folder(out: Path, name: str, identity: dict[str, Any]) -> Path:
    """OUT/work/<name>-<hash of the identity>, where the identity is everything that the finished work depends on."""
    mine = out / "work" / f"{name}-{hash_json(identity)[:16]}"
    mine.mkdir(parents=True, exist_ok=True)
    with placing(mine / "identity.json") as partial:
        partial.write_text(json.dumps(identity, indent=1), encoding="utf-8")
    return mine


def tidy(out: Path, kept: Iterable[Path]) -> None:
    """Remove the work of earlier jobs, once the answers of this one are there."""
    mine = set(kept)
    for other in (out / "work").glob("*/"):
        if other not in mine and _NAMED.fullmatch(other.name):
            shutil.rmtree(other)


def earlier_seconds(folder: Path, watch: Stopwatch) -> None:
    """Let a stopwatch go on from what the finished work took in earlier runs."""
    file = folder / "seconds.json"
    if file.exists():
        watch.seconds.update(json.loads(file.read_text(encoding="utf-8")))


def keep_seconds(folder: Path, watch: Stopwatch, stages: Iterable[str]) -> None:
    """Write down what some stages have taken so far."""
    taken = {stage: watch.seconds[stage] for stage in stages if stage in watch.seconds}
    with placing(folder / "seconds.json") as partial:
        partial.write_text(json.dumps(taken), encoding="utf-8")
