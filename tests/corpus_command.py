"""`mgvr corpus` as a call, and small feature sets to call it on: fixtures for the tests of its commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from mgvr_core.config import parse
from mgvr_core.corpus.files import Look, look
from mgvr_core.features.contents import Change, Failure, Key, Place, Source
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import hash_file
from mgvr_core.model.load import ModelConfig
from pipelines import corpus as job
from pipelines.encode import EncodeConfig, prepare


class Told(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> dict[str, str]:
        """A summary's lines by name."""
        lines = [line.strip().partition("  ") for line in self.out.splitlines()[1:]]
        return {name: value.strip() for name, _, value in lines}


@pytest.fixture
def mgvr(capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Runs `mgvr corpus` with some words."""

    def run(*words: object) -> Told:
        capsys.readouterr()
        code = job.run([str(word) for word in words])
        return Told(code, *capsys.readouterr())

    return run


def everything(folder: Path) -> dict[str, int]:
    """All that lies below a folder, with the times of change."""
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))}


class Made(NamedTuple):
    """A set that nothing was encoded for, with the fingerprint of a real model."""

    config: EncodeConfig
    store: FeatureStore
    fingerprint: Any

    def commit(
        self, corpus: str | Path, uris: Sequence[Path], failed: Sequence[tuple[Path, str]] = (), **notes: Any
    ) -> Snapshot:
        """Files as they look now: with features, or failed for a reason."""
        shard = self.store.write_shard(pa.table({"row": range(len(uris))}))
        kinds = dict(failed)
        sources, failures = [], []
        for row, path in enumerate([*uris, *kinds]):
            key, seen, digest = Key(str(corpus), str(path)), look([str(path)])[str(path)], hash_file(path)
            assert isinstance(seen, Look)
            place = None if path in kinds else Place(shard.path, row)
            sources.append(Source(key, digest[:32], digest, *seen, place))
            if path in kinds:
                message = f"{path}: {kinds[path]}"
                at = "2026-01-02T03:04:05+00:00"
                failures.append(Failure(key, digest[:32], "decode", kinds[path], message, 1, "pyav", at))
        return self.store.commit(self.fingerprint, Change(sources, (), failures, [shard]), notes)


@pytest.fixture
def options(model: ModelConfig, tmp_path: Path) -> list[str]:
    """The encode job's own."""
    (tmp_path / "videos").mkdir()
    return [
        *("--corpus.uri", str(tmp_path / "videos"), "--out", str(tmp_path / "set")),
        *("--model.checkpoint", str(model.checkpoint)),
    ]


@pytest.fixture
def made(options: list[str]) -> Made:
    keys = dict(zip((key.removeprefix("--") for key in options[::2]), options[1::2], strict=True))
    values = {
        "corpus": {"uri": keys["corpus.uri"]},
        "out": keys["out"],
        "model": {"checkpoint": keys["model.checkpoint"]},
    }
    config = parse(EncodeConfig, values | {"max_failure_rate": 1, "decoding": {"workers": 1}}, "the test")
    maker, store = prepare(config)
    return Made(config, store, maker.fingerprint)


def write(folder: Path, names: str) -> list[Path]:
    """Files that hold their names."""
    for name in names:
        (folder / f"{name}.mp4").write_text(name)
    return [folder / f"{name}.mp4" for name in names]


def copy_of(features: Snapshot, tmp_path: Path) -> Path:
    return Path(shutil.copytree(features.url, tmp_path / "copy"))
