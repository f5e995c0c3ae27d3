from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mgvr_core.datasets.benchmarks.catalogue import read_benchmark
from mgvr_core.errors import MgvrError

SAMPLES = Path(__file__).resolve().parents[3] / "annotations"


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """A set's sample files in a folder of the test's own, to be damaged."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(SAMPLES / name, tmp_path / name))

    return copy


@pytest.fixture
def annotations(shared: Path) -> Path:
    """The real annotation files."""
    folder = shared / "annotations"
    if not folder.is_dir():
        pytest.skip("the real annotation files are not in ../shared/annotations")
    return folder


@pytest.fixture
def refusal() -> Callable[[str, Path], str]:
    """What the user is told where the files of a benchmark are refused."""

    def refused(name: str, path: Path) -> str:
        with pytest.raises(MgvrError) as caught:
            read_benchmark(name, path)
        return str(caught.value)

    return refused
