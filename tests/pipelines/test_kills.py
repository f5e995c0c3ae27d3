"""Kills at any moment, then the same command again: the set is the one of a run that nobody disturbed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import Start, cluster, launching, standing
from ray.cluster_utils import Cluster

from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.features.verify import verify
from mgvr_core.model.load import ModelConfig

__all__ = ["cluster"]

PROGRAM = Path(__file__).with_name("kills.py")
ROWS_PER_SHARD = 4  # as in the program
PATIENCE_S = 120

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks for workers in /proc")]


@pytest.fixture(scope="module")
def videos(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty films, one of them twice, and a page: a duplicate and a failure are part of what must be the same."""
    folder = tmp_path_factory.mktemp("videos")
    for path in corpus.folder.rglob("*.mp4"):
        shutil.copy(path, folder / path.name)
    shutil.copy(folder / "train-00000.mp4", folder / "zz-copy.mp4")
    (folder / "page.mp4").write_text("<!doctype html><title>404</title>")
    return folder


@pytest.fixture(scope="module")
def start(cluster: Cluster, videos: Path, model: ModelConfig) -> Iterator[Start]:
    """Starts the job; `address=None`: on a Ray of its own, which dies with it."""
    with launching(PROGRAM) as run:

        def launch(out: Path, log: Path, address: str | None = cluster.address) -> subprocess.Popen[bytes]:
            words = (out, videos, model.checkpoint, log, *([address] if address else []))
            return run(log.with_suffix(".out"), *words)

        yield launch


@pytest.fixture(scope="module")
def undisturbed(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert start(folder / "set", folder / "log").wait(PATIENCE_S) == 0
    snapshot = FeatureStore(folder / "set").snapshot()
    assert (snapshot.rows, snapshot.failed().num_rows) == (40, 1)
    assert encoded(folder / "log") == 40
    return snapshot


def encoded(log: Path) -> int:
    """Videos that have gone through the model so far."""
    return log.read_text().count("\n") if log.exists() else 0


def require_same(one: Snapshot, other: Snapshot) -> None:
    """Row for row: ids and what is known of each video exactly, features within the rounding of half precision."""
    mine, theirs = (
        {row["id"]: row for table in snapshot.tables() for row in table.to_pylist()} for snapshot in (one, other)
    )
    assert mine.keys() == theirs.keys()
    assert one.rows == len(mine)
    tensors = ("timestamps", "video", "frames", "frame_norms", "temporal", "patches")
    for name, row in mine.items():
        for column, value in row.items():
            if column in tensors:
                np.testing.assert_allclose(value, theirs[name][column], atol=1e-3)
            else:
                assert value == theirs[name][column], (name, column)
    assert listed(one) == listed(other)
    assert failed(one) == failed(other)
    assert verify(one).problems == ()


def listed(snapshot: Snapshot) -> dict[Any, Any]:
    return {key: (s.id, s.content_hash, s.size, s.version, s.place is None) for key, s in snapshot.sources().items()}


def failed(snapshot: Snapshot) -> list[Any]:
    rows = snapshot.failed().to_pylist()
    return [{name: value for name, value in row.items() if name not in ("at", "attempts")} for row in rows]


def require_tidy(store: FeatureStore, snapshot: Snapshot) -> None:
    """What the kills left behind is found and removed, and the set needs none of it."""
    store.remove(store.rubbish(keep=1, older_than_s=0))
    assert verify(store.snapshot()).problems == ()
    left = {
        entry.name for folder in ("shards", "corpus", "pending", "scratch") for entry in store.storage.entries(folder)
    }
    assert left <= snapshot.files()


def kill_at_random(process: subprocess.Popen[bytes], log: Path, chance: random.Random) -> bool:
    """SIGKILL after a few more videos or some time, whichever is drawn; False: the job was done before."""
    if chance.random() < 0.3:
        deadline = time.monotonic() + chance.uniform(0, 6)  # the start of Ray and of the workers
        goal = 1 << 30
    else:
        deadline = time.monotonic() + PATIENCE_S
        goal = encoded(log) + chance.randint(1, 12)
    while process.poll() is None and time.monotonic() < deadline and encoded(log) < goal:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.2))  # between the model and the shard
    if process.poll() is not None:
        return False
    process.kill()
    process.wait()
    return True


@pytest.mark.parametrize("seed", [0, 1])
def test_a_driver_that_is_killed_again_and_again_comes_to_the_same_set(
    start: Start, undisturbed: Snapshot, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    kills = 0
    while kills < 10:
        out, log = tmp_path / f"set-{kills}", tmp_path / f"log-{kills}"
        before = kills
        while kill_at_random(process := start(out, log), log, chance):
            kills += 1
        assert process.returncode == 0, log.with_suffix(".out").read_text()[-3000:]
        store = FeatureStore(out)
        snapshot = store.snapshot()
        require_same(snapshot, undisturbed)
        # A kill costs no more than what its writer had not yet made a shard of, and what its model was at.
        redone = encoded(log) - 40
        assert redone <= (kills - before) * 2 * ROWS_PER_SHARD
        print(f"{kills - before} kills, {redone} of 40 videos encoded again")
        require_tidy(store, snapshot)


def test_a_driver_with_a_ray_of_its_own_can_be_killed_too(start: Start, undisturbed: Snapshot, tmp_path: Path) -> None:
    out, log = tmp_path / "set", tmp_path / "log"
    process = start(out, log, address=None)
    while encoded(log) < 14:
        assert process.poll() is None, log.with_suffix(".out").read_text()[-3000:]
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert start(out, log, address=None).wait(PATIENCE_S) == 0
    require_same(FeatureStore(out).snapshot(), undisturbed)


def processes(part: str, cluster: Cluster) -> list[int]:
    """Processes of a cluster whose command line holds a text; other clusters of this machine are left alone."""
    session = cluster.head_node.get_session_dir_path()
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if part in command_of(number := int(folder.name)) and any(
                session in command_of(up) for up in above(number)
            ):
                found.append(number)
    return found


def command_of(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")


def above(process: int) -> Iterator[int]:
    """The processes that a process descends from."""
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
        yield process


@pytest.mark.parametrize(
    "victim", ["MapBatches(SlowDecode)", "MapBatches(SlowEncode)", "MapBatches(Write)", "mgvr_core.video.child"]
)
def test_workers_and_decoders_that_are_killed_cost_nothing(
    start: Start, cluster: Cluster, undisturbed: Snapshot, tmp_path: Path, victim: str
) -> None:
    """In one run, without a second command: Ray starts them again, and so does the sandbox."""
    chance = random.Random(victim)
    out, log = tmp_path / "set", tmp_path / "log"
    process = start(out, log)
    kills = 0
    while process.poll() is None:
        time.sleep(chance.uniform(0, 0.5))
        if kills < 4 and (alive := processes(victim, cluster)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(alive), signal.SIGKILL)
                kills += 1
    assert process.returncode == 0, log.with_suffix(".out").read_text()[-3000:]
    assert kills == 4
    store = FeatureStore(out)
    require_same(store.snapshot(), undisturbed)
    require_tidy(store, store.snapshot())


def test_a_node_that_is_removed_costs_nothing(undisturbed: Snapshot, start: Start, tmp_path: Path) -> None:
    """Of two nodes the one without the driver goes, whatever ran there."""
    out, log = tmp_path / "set", tmp_path / "log"
    with standing(cpus=3) as two:
        second = two.add_node(num_cpus=3)
        process = start(out, log, address=two.address)
        while encoded(log) < 10:
            assert process.poll() is None, log.with_suffix(".out").read_text()[-3000:]
            time.sleep(0.01)
        two.remove_node(second, allow_graceful=False)
        assert process.wait(PATIENCE_S) == 0, log.with_suffix(".out").read_text()[-3000:]
        store = FeatureStore(out)
        require_same(store.snapshot(), undisturbed)
        require_tidy(store, store.snapshot())
