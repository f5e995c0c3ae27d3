"""The encode job's configuration in one line, for the tests of what it does and of what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mgvr_core.config import parse
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.model.load import ModelConfig
from pipelines.encode import EncodeConfig


def config(out: Path | str, model: ModelConfig, **settings: Any) -> EncodeConfig:
    return parse(EncodeConfig, {"out": str(out), "model": model, **settings}, source="the test")


def root(snapshot: Snapshot) -> Path:
    return Path(snapshot.url)
