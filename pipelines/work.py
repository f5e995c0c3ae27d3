"""The folder in which a job keeps what it has finished, apart from that of any job that asks for something else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mgvr_core.files import placing
from mgvr_core.identity import hash_json

_IDENTITY = "identity.json"


def work_folder(out: Path, identity: dict[str, Any]) -> Path:
    """OUT/work/<hash of the identity>: everything that the finished work depends on. Work of other jobs is removed."""
    work = out / "work"
    mine = work / hash_json(identity)[:16]
    for other in work.glob(f"*/{_IDENTITY}"):
        if other.parent != mine:
            shutil.rmtree(other.parent)
    mine.mkdir(parents=True, exist_ok=True)
    with placing(mine / _IDENTITY) as partial:
        partial.write_text(json.dumps(identity, indent=1), encoding="utf-8")
    return mine
