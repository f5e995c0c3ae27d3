"""What the tests of a feature set ask of it, and the killing of a process that writes to it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa

from mgvr_core.features.contents import Change, Failure, Key
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore

Table = Callable[..., pa.Table]
Adding = Callable[..., Change]

ROOT = Path(__file__).resolve().parents[1]
WRITER = ROOT / "tests" / "mgvr_core" / "features" / "writer.py"


def ids(snapshot: Snapshot) -> list[str]:
    return sorted(name for table in snapshot.tables(["id"]) for name in table.column("id").to_pylist())


def failed(key: Key, name: str | None = "v9") -> Failure:
    return Failure(key, name, "decode", "broken", "no frame", 1, "pyav", "2026-01-01T00:00:00+00:00")


def gone(store: FeatureStore, names: Iterable[str]) -> Change:
    return Change(gone=[source for source in store.contents().sources.values() if source.id in set(names)])


def files(store: FeatureStore) -> set[str]:
    """All files of a local set but the snapshots that gc has emptied."""
    root = Path(store.url)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.stat().st_size}


def kill(store: FeatureStore, moment: str) -> None:
    arguments = [sys.executable, str(WRITER), "die", store.url, "killed", moment]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL
