"""What the tests of a feature set ask of it, and the killing of a process that writes to it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from mgvr_core.features.contents import Change, Failure, Key
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.scoring.features import VideoFeatures

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


def uris_of(snapshot: Snapshot) -> dict[str, list[str]]:
    """Where each video lies, by id: one uri, or several of exact duplicates."""
    found: dict[str, list[str]] = {}
    for key, source in snapshot.sources().items():
        if source.place and source.id is not None:
            found.setdefault(source.id, []).append(key.uri)
    return found


def files(store: FeatureStore) -> set[str]:
    """All files of a local set but the snapshots that gc has emptied."""
    root = Path(store.url)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.stat().st_size}


def kill(store: FeatureStore, moment: str) -> None:
    arguments = [sys.executable, str(WRITER), "die", store.url, "killed", moment]
    assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL


def features_from_table(table: pa.Table) -> VideoFeatures:
    """Rows of a shard as fp32 tensors, for scoring every pair."""

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(tensor_column(table, name).astype(np.float32))

    return VideoFeatures(
        video=tensor("video"),
        frames=tensor("frames"),
        temporal=tensor("temporal"),
        patches=tensor("patches") if "patches" in table.column_names else None,
        mask=torch.from_numpy(tensor_column(table, "mask").astype(bool)),
    )
