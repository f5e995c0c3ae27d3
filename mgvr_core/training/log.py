"""OUT/metrics.jsonl: one JSON object a line; `kind` is step, epoch or resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mgvr_core.errors import MgvrError
from mgvr_core.files import replacing


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a record; raises ValueError for a figure that is NaN or infinite."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All records; a last line that a kill cut short is left out. Raises MgvrError for any other that is none."""
    if not path.exists():
        return []
    records = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise MgvrError(f"{path}, line {number} is not JSON: remove the line to go on") from None
    return records


def rewind(path: Path, step: int) -> None:
    """Forget what was logged after a step, which is about to be taken again; records of resumes stay."""
    kept = [record for record in read(path) if record.get("kind") == "resume" or record.get("step", step + 1) <= step]
    with replacing(path) as file:
        file.writelines(json.dumps(record) + "\n" for record in kept)
