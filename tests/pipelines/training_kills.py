"""The train job as a program of its own, for tests that kill it: `training_kills.py SETTINGS.json LOG [ADDRESS]`.

A step takes a moment, so that there is time to kill something, and LOG gets a line for every pair that a worker has
taken a step on: process, step, row of the caption. What the workers run is defined here, in the main module: Ray sends
such code along.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgvr_core.config import parse
from pipelines import train as job
from pipelines import training
from pipelines.kept import Inputs
from pipelines.train_options import TrainConfig

PACE_S = 0.15


def slow_worker(config: dict[str, Any]) -> None:
    class SlowTrainer(training.Trainer):
        def step(self, rows: NDArray[np.int64], inputs: Inputs) -> dict[str, float]:
            time.sleep(PACE_S)
            found = super().step(rows, inputs)
            lines = "".join(f"{os.getpid()} {self.progress.step + 1} {row}\n" for row in rows)
            log = os.open(config["pairs"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(log, lines.encode())  # one write a step: whole or not at all
            os.close(log)
            return found

    training.Trainer = SlowTrainer  # type: ignore[misc]
    training.train_worker(config)


def main(settings: str, log: str, address: str | None = None) -> None:
    values = {**json.loads(Path(settings).read_text()), "ray": {"address": address, "cpus": 4}}
    trainer = job.TorchTrainer

    def with_log(worker: Any, train_loop_config: dict[str, Any], **options: Any) -> Any:
        return trainer(slow_worker, train_loop_config={**train_loop_config, "pairs": log}, **options)

    job.TorchTrainer = with_log  # type: ignore[assignment,misc]
    job.train(parse(TrainConfig, values, "the test"))


if __name__ == "__main__":
    main(*sys.argv[1:])
