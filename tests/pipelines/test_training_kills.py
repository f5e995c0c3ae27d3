"""A training whose worker is killed, and then its driver: its losses are those of one that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from killing import Start, cluster, launching
from ray.cluster_utils import Cluster
from small_jobs import FRESH, SAMPLING

from mgvr_core.model import checkpoint
from mgvr_core.model.checkpoint import weights_hash
from mgvr_core.training import state

__all__ = ["cluster"]

PROGRAM = Path(__file__).with_name("training_kills.py")
PATIENCE_S = 240
BATCH, EPOCHS, EVERY = 8, 3, 2
FIGURES = ("loss", "loss_weak", "loss_strong", "loss_pearson", "lr", "grad_norm", "logit_scale")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def start(cluster: Cluster, corpus: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    clips = tmp_path_factory.mktemp("clips")
    values = {
        "corpus": corpus.manifest("train").model_dump(mode="json"),
        "validation": corpus.manifest("validation").model_dump(mode="json"),
        "model": FRESH,
        "sampling": SAMPLING,
        "optimiser": {"lr": 1e-3, "clip_lr_factor": 1.0},
        "clips": {"folder": str(clips)},
        "batch_size": BATCH,
        "epochs": EPOCHS,
        "checkpoints": {"every_steps": EVERY},
        "compute": {"threads": 1},
    }

    with launching(PROGRAM) as run:

        def launch(out: Path, workers: int) -> subprocess.Popen[bytes]:
            out.mkdir(parents=True, exist_ok=True)
            settings = out / "settings.json"
            settings.write_text(json.dumps({**values, "out": str(out / "run"), "workers": workers}))
            return run(out / "out.txt", settings, out / "pairs.txt", cluster.address)

        yield launch


def taken(out: Path) -> list[tuple[int, int, int]]:
    """(process, step, row of the caption) of every pair that a step was taken on, in order."""
    file = out / "pairs.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return [tuple(int(word) for word in line.split()) for line in lines]  # type: ignore[misc]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.05)


def steps_logged(out: Path) -> list[dict[str, Any]]:
    lines = (out / "run" / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "step"]


@pytest.mark.parametrize(("workers", "within"), [(1, 0.0), (2, 1e-6)])
@pytest.mark.parametrize("seed", [0])
def test_the_resumed_losses_are_the_uninterrupted_ones(
    start: Start, tmp_path: Path, workers: int, within: float, seed: int
) -> None:
    """A worker is killed at a random step, later the driver at another; the same command ends the run."""
    assert start(tmp_path / "whole", workers).wait(PATIENCE_S) == 0
    whole = steps_logged(tmp_path / "whole")
    total = len(whole)
    assert [record["step"] for record in whole] == list(range(1, total + 1))

    out = tmp_path / "killed"
    chance = random.Random(seed)
    first, second = sorted(chance.sample(range(3, total - 2), 2))
    job = start(out, workers)
    wait_for(lambda: any(step >= first for _, step, _ in taken(out)), job)
    victim = chance.choice(sorted({process for process, _, _ in taken(out)}))
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: any(step > second and process != victim for process, step, _ in taken(out)[-workers:]), job)
    assert len({process for process, _, _ in taken(out)}) > workers, "no worker was started anew"
    job.kill()
    job.wait()
    assert start(out, workers).wait(PATIENCE_S) == 0, (out / "out.txt").read_text()[-3000:]

    again = steps_logged(out)
    assert [record["step"] for record in again] == list(range(1, total + 1))
    for expected, found in zip(whole, again, strict=True):
        for name in FIGURES:
            assert abs(found[name] - expected[name]) <= within * max(1.0, abs(expected[name])), (found["step"], name)
    resumes = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    resumes = [record for record in resumes if record["kind"] == "resume"]
    assert len(resumes) == 2
    assert all(record["step"] % EVERY == 0 or record["step"] % (total // EPOCHS) == 0 for record in resumes)

    if within == 0:
        models = [checkpoint.load(folder / "run" / "model").model for folder in (tmp_path / "whole", out)]
        assert weights_hash(models[0]) == weights_hash(models[1])
    assert (out / "run" / "training.html").exists()
    assert state.steps(out / "run" / "checkpoints")[-1] == total
    require_every_pair_once(out, total)


def require_every_pair_once(out: Path, total: int) -> None:
    """Of the steps as they were last taken, which are those that the model is made of: no caption twice in an epoch."""
    rows: dict[int, list[int]] = {}
    seen: dict[int, Counter[int]] = {}
    for _, step, row in taken(out):
        rows.setdefault(step, []).append(row)
    for step, taken_rows in rows.items():
        last = taken_rows[-BATCH:]
        # A step that was taken again was taken on the same pairs.
        assert set(last) == set(taken_rows), step
        assert len(set(last)) == BATCH
        seen.setdefault((step - 1) // (total // EPOCHS), Counter()).update(last)
    assert len(seen) == EPOCHS
    for epoch in seen.values():
        assert set(epoch.values()) == {1}
        assert len(epoch) == (total // EPOCHS) * BATCH
