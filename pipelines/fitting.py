"""What the trainings by Ray Train share: how a driver runs the workers, and how these begin and fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from torch import distributed as dist

from mgvr_core.errors import JobError, MgvrError
from mgvr_core.training import state
from pipelines.models import DeviceConfig
from pipelines.progress import progress
from pipelines.runtime import RayConfig, available_cores


@dataclass(frozen=True)
class RunFolder:
    """Where a training keeps what it has done."""

    out: str
    """Folder of the run: checkpoints/ and metrics.jsonl are in it."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return Path(self.out) / "checkpoints"

    @property
    def log(self) -> Path:
        """JSON lines of metrics."""
        return Path(self.out) / "metrics.jsonl"


def fit(
    title: str,
    worker: Callable[[dict[str, Any]], None],
    task: RunFolder,
    steps: int,
    workers: int,
    compute: DeviceConfig,
    restarts: int,
    going_on: str,
) -> None:
    """Run Ray Train's workers on a task; raises JobError with what they failed of.

    restarts: times that they are started anew when one is lost; going_on: from where the same command would go on.
    """
    gpu = bool(compute.gpus)
    with progress(title, steps, "steps") as counter:
        trainer = TorchTrainer(
            worker,
            train_loop_config={"task": task, "counter": counter},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            run_config=RunConfig(
                # Ray goes on with a run of the same name by itself; what a run is here is decided by its folder.
                name=f"train-{time.time_ns()}",
                storage_path=str(Path(task.out) / "ray"),
                failure_config=FailureConfig(max_failures=restarts),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            failure = ray.get(counter.failure.remote()) or (
                f"the workers were lost more than {restarts} times; the same command goes on from {going_on}. The last "
                f"error:\n{error}"
            )
            raise JobError(failure) from error
        if failure := ray.get(counter.failure.remote()):
            raise JobError(failure)


def work(config: dict[str, Any], train: Callable[[Any, Any], None]) -> None:
    """Ray Train's loop on a worker: `train` is given the task and the counter."""
    counter = config["counter"]
    if ray.get(counter.failure.remote()):
        return  # a group that was started anew after an error that would come again
    try:
        train(config["task"], counter)
    except MgvrError as error:
        # Noted, and raised for the others' sake: they wait for this worker, and end with it.
        ray.get(counter.fail.remote(str(error)))
        raise


def newest(checkpoints: Path, device: torch.device) -> int:
    """The step of the newest checkpoint, the same on all workers; 0 where there is none."""
    found = torch.tensor([max(state.steps(checkpoints), default=0)], device=device)
    if dist.is_initialized():
        dist.broadcast(found, src=0)
    return int(found)


def require_places(workers: int, compute: DeviceConfig, ray_config: RayConfig, advice: str) -> None:
    """Raise MgvrError for more workers than this machine has places for: Ray would wait for them for ever."""
    if not ray_config.starts_here():
        return  # a cluster may grow
    gpu = bool(compute.gpus)
    places = torch.cuda.device_count() if gpu else ray_config.cpus or max(4, available_cores())
    if workers > places:
        raise MgvrError(
            f"{workers} workers, but this machine has {places} {'GPUs' if gpu else 'logical CPUs'}: lower --workers "
            f"({advice}), or give a cluster with --ray.address"
        )
