"""What tests that kill a job need: a cluster that outlives it, and the job as a process of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[1]

Start = Callable[..., subprocess.Popen[bytes]]


@contextlib.contextmanager
def standing(cpus: int) -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="ray-")  # short, for the sockets below it
    head = {"num_cpus": cpus, "temp_dir": folder, "include_dashboard": False}
    made = Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        yield made
    finally:
        made.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster that outlives the drivers, and that the test itself does not connect to."""
    with standing(cpus=4) as made:
        yield made


@contextlib.contextmanager
def launching(program: Path) -> Iterator[Start]:
    """Starts the program with some words, what it prints at the end of a file; in the end kills what still runs."""
    running: list[subprocess.Popen[bytes]] = []

    def launch(printed: Path, *words: object) -> subprocess.Popen[bytes]:
        with printed.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, str(program), *map(str, words)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=output,
            )
        running.append(process)
        return process

    try:
        yield launch
    finally:
        for process in running:
            process.kill()
