"""Which run a folder holds: a run goes on with what began it, and never with something else.

OUT/run.json holds the parts that shape what is learned (weights to start from, data, loss, optimiser, batch size,
epochs, seed, precision …). Where it runs, on how many workers and in how many chunks is not among them: the step is the
same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mgvr_core.errors import MgvrError
from mgvr_core.files import replacing
from mgvr_core.identity import Fingerprint

_FILE = "run.json"


def require_same(folder: Path, run: Fingerprint, parts: Iterable[str] | None = None) -> None:
    """Raise MgvrError, with the parts that differ, where the folder holds another run; `parts`: look at these alone."""
    held = _read(folder)
    if held is None:
        return
    differences = held.differences(run, parts)
    if differences:
        raise MgvrError(
            f"{folder} holds another run:\n  "
            + "\n  ".join(_short(line) for line in differences)
            + "\n(data: captions and what the videos hold; one that can't be read now counts as well.) Give another "
            "folder with --out, go on with the settings that it began with, or throw that run away with --restart yes"
        )


def is_claimed(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / _FILE).exists()


def claim(folder: Path, run: Fingerprint) -> None:
    """Make the folder this run's; raises MgvrError where it is another's."""
    require_same(folder, run)
    with replacing(folder / _FILE) as file:
        json.dump(dict(run.parts), file, indent=1)


def _read(folder: Path) -> Fingerprint | None:
    file = folder / _FILE
    if not file.exists():
        return None
    try:
        return Fingerprint(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise MgvrError(f"{file} can't be read ({error}): begin again with --restart yes") from error


def _short(line: str, most: int = 300) -> str:
    return line if len(line) <= most else f"{line[:most]} …"
