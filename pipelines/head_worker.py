"""What a worker does that trains a scorer: the same steps on one worker or many, from the last epoch that was done."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from numpy.typing import NDArray

from mgvr_core.ahead import ahead
from mgvr_core.errors import JobError
from mgvr_core.features.contents import now
from mgvr_core.identity import Fingerprint
from mgvr_core.scorers.catalogue import find
from mgvr_core.scorers.scorer import Setting
from mgvr_core.training import head_state, log, state
from mgvr_core.training.head_step import Descent, HeadOptimiserConfig, pool_ranks
from mgvr_core.training.pairs import Batches
from mgvr_core.training.state import Progress
from pipelines.fitting import RunFolder, newest, work
from pipelines.head_data import Arrays, HeadSplit
from pipelines.models import DeviceConfig

VALIDATED, FITTED = "R@1_validation", "R@1_train"
"""What is measured after an epoch, of one split or the other."""
_POOL = 256
"""Videos that a caption's own is looked for among then, at most."""


@dataclass(frozen=True)
class HeadTask(RunFolder):
    """Everything that a worker needs, as plain data."""

    scorer: str
    setting: Setting
    made_by: Fingerprint
    """The model that made the features."""
    train: HeadSplit
    validation: HeadSplit | None
    batch_size: int
    epochs: int
    seed: int
    optimiser: HeadOptimiserConfig
    compute: DeviceConfig
    run: str
    """The run's fingerprint."""

    @property
    def batches(self) -> Batches:
        """The steps."""
        return Batches(self.train.captioned, self.batch_size, self.epochs, self.seed)


def head_worker(config: dict[str, Any]) -> None:
    """Ray Train's loop, on every worker. Rank 0 alone measures, logs and writes checkpoints."""
    work(config, _train)


def _train(task: HeadTask, counter: Any) -> None:
    context = ray.train.get_context()
    rank = context.get_world_rank()
    torch.set_num_threads(task.compute.thread_count(context.get_local_world_size()))
    trainer = HeadTrainer(task, rank, context.get_world_size())
    trainer.resume()
    per_epoch = trainer.batches.steps_per_epoch
    if rank == 0:
        log.rewind(task.log, trainer.progress.step)
        if trainer.progress.step:
            resumed = {"kind": "resume", "step": trainer.progress.step, "at": now(), "workers": trainer.workers}
            log.append(task.log, resumed)
    counter.set.remote("resumed", trainer.progress.step)
    for epoch in range(trainer.progress.step // per_epoch, task.epochs):
        losses = []
        for record in trainer.epoch(epoch):
            losses.append(record["loss"])
            if rank == 0:
                log.append(task.log, record)
                counter.set.remote("steps", record["step"])
                counter.set.remote("loss", round(record["loss"], 3))
        # The others wait for the first in the next step. No ray.train.report: it would hold every epoch for the seconds
        # that pass between two of Ray's looks at the workers.
        if rank == 0:
            trainer.end_epoch(epoch, math.fsum(losses) / per_epoch)


class HeadTrainer:
    """A worker's copy of the scorer, its optimiser and its data."""

    def __init__(self, task: HeadTask, rank: int, workers: int) -> None:
        self.task, self.batches = task, task.batches
        self.progress = Progress()
        self.workers = workers
        self._device = task.compute.torch_device()
        self._scorer = find(task.scorer)(task.setting).eval().to(self._device)
        self._descent = Descent(self._scorer, task.optimiser, self.batches.steps)
        B = task.batch_size
        self._share = slice(rank * B // workers, (rank + 1) * B // workers)
        self.arrays = Arrays(task.train, self._device)

    def resume(self) -> None:
        """Go on from the newest checkpoint, the same on all workers, if there is one."""
        if step := newest(self.task.checkpoints, self._device):
            place = state.path_of(self.task.checkpoints, step)
            self.progress = head_state.load(place, self._scorer, self._descent.optimiser, self.task.run)

    def epoch(self, epoch: int) -> Iterator[dict[str, Any]]:
        """Take the steps of an epoch (from 0); yields the record of each."""
        first = epoch * self.batches.steps_per_epoch
        batches = self.batches.shares(epoch, 0, rank=0, workers=1)  # every worker has the whole batch
        began = time.perf_counter()
        for step, (texts, videos) in enumerate(ahead(self.arrays.pairs(rows) for rows in batches), start=first):
            taken = self._descent.step(step, texts, videos, self._share)
            broken = [name for name in ("loss", "grad_norm") if not math.isfinite(getattr(taken, name))]
            if broken:
                raise JobError(
                    f"step {step + 1}: {' and '.join(broken)} of {self.task.scorer} not finite; the last checkpoint "
                    "is from before. Lower --optimiser.lr, and begin again with --restart yes"
                )
            seconds = time.perf_counter() - began
            yield {"kind": "step", "step": step + 1, "epoch": epoch + 1, **asdict(taken), "seconds": round(seconds, 4)}
            began = time.perf_counter()

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Measure an epoch, note it, and keep it; of the epochs before only the best."""
        task, step = self.task, (epoch + 1) * self.batches.steps_per_epoch
        record: dict[str, Any] = {"kind": "epoch", "epoch": epoch + 1, "step": step, "loss": loss, **self._measured()}
        log.append(task.log, record)
        self.progress = Progress(step, {}, (*self.progress.history, record))
        optimiser = self._descent.optimiser
        head_state.save(task.checkpoints, task.scorer, self._scorer, optimiser, task.made_by, self.progress, task.run)
        state.prune(task.checkpoints, state.best(self.progress.history, VALIDATED, 1))

    def _measured(self) -> dict[str, float]:
        """R@1 in pools of videos: of all validation, or without one in a single pool of training videos."""
        split = self.task.validation or self.task.train
        V = split.captioned.videos
        order = np.random.default_rng(0).permutation(V)
        pools = np.array_split(order, -(-V // _POOL))  # of equal sizes: one of a few would be too easy
        if self.task.validation is None:
            return {FITTED: self._recall(split, pools[:1]), "pool": len(pools[0])}
        return {VALIDATED: self._recall(split, pools), "pool": len(pools[0])}

    def _recall(self, split: HeadSplit, pools: list[NDArray[np.int64]]) -> float:
        arrays, owner = Arrays(split, self._device), split.captioned.owner
        found = []
        for pool in pools:
            captions = np.flatnonzero(np.isin(owner, pool))
            place = {video: at for at, video in enumerate(pool.tolist())}
            mine = np.array([place[video] for video in owner[captions].tolist()])
            found.append(pool_ranks(self._scorer, arrays.texts(captions), arrays.videos(pool), mine))
        return float((np.concatenate(found) <= 1).mean())
