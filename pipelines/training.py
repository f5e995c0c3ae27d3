"""What a training worker does: the same steps on one worker or many, from wherever the last one got to.

docs/method.md, section 3 is the step; docs/training.md says what a run keeps and how it goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.ahead import ahead
from mgvr_core.errors import JobError
from mgvr_core.features.contents import now
from mgvr_core.model import checkpoint
from mgvr_core.model.eercf import MAX_LOGIT_SCALE
from mgvr_core.model.tokenizer import tokenizer_of
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.training import log, state
from mgvr_core.training.losses import Losses
from mgvr_core.training.optimiser import build_optimiser, set_rates
from mgvr_core.training.step import Rows, backward
from mgvr_core.training.trained import set_trained
from mgvr_core.training.validation import Scores, fit_weights, ranks_of, recalls, score_split
from pipelines.board import Board
from pipelines.fitting import newest, work
from pipelines.kept import Inputs
from pipelines.models import preprocessing
from pipelines.training_task import Split, TrainingTask

_TEXTS = 256
"""Captions that go through the text tower at once in validation."""
_PARTS = ("total", "weak", "strong", "pearson")
_LOGGED = {"total": "loss", **{part: f"loss_{part}" for part in _PARTS[1:]}}


def train_worker(config: dict[str, Any]) -> None:
    """Ray Train's loop, on every worker. Rank 0 alone measures, logs and writes checkpoints."""
    work(config, _train)


def _train(task: TrainingTask, counter: Any) -> None:
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(task.compute.thread_count(context.get_local_world_size()))
    torch.manual_seed(task.seed)
    trainer = Trainer(task, rank, workers)
    trainer.resume()
    chief = Chief(trainer) if rank == 0 else None
    counter.set.remote("resumed", trainer.progress.step)
    while trainer.progress.step < trainer.batches.steps:
        for record in trainer.epoch():
            step = record["step"]
            if chief is None:
                continue
            chief.log(record)
            counter.set.remote("steps", step)
            counter.set.remote("loss", round(record["loss"], 3))
            if task.every_steps and step % task.every_steps == 0 and step % trainer.batches.steps_per_epoch:
                chief.save()
        if chief is not None:
            chief.end_epoch()
        ray.train.report({"step": trainer.progress.step})  # where the workers wait for the first


class Trainer:
    """A worker's model, optimiser and share of the batches."""

    def __init__(self, task: TrainingTask, rank: int, workers: int) -> None:
        self.task, self.batches = task, task.batches
        self.progress = state.Progress()
        self.workers = workers
        self._rank = rank
        self._device = task.compute.torch_device()
        # In evaluation mode all along. The layers that training mode changes draw random numbers (dropout) or take
        # statistics of a worker's rows (batch norm): with them a step would depend on the number of workers.
        self.model = checkpoint.load(Path(task.start)).model.to(self._device)
        set_trained(self.model, task.trained)
        if task.memory.checkpointing:
            self.model.recompute_activations()
        self.optimiser = build_optimiser(self.model, task.optimiser)
        self._preprocess = preprocessing(self.model.spec)
        self._tokenizer = tokenizer_of(self.model.spec)
        self._source = task.train.source.open(workers)

    def resume(self) -> None:
        """Go on from the newest checkpoint, the same on all workers, if there is one."""
        if step := newest(self.task.checkpoints, self._device):
            place = state.path_of(self.task.checkpoints, step)
            self.progress = state.load(place, self.model, self.optimiser, self.task.run)

    def epoch(self) -> Iterator[dict[str, Any]]:
        """Take the steps that are left of the epoch; yields the record of each."""
        per_epoch, captioned = self.batches.steps_per_epoch, self.task.train.captioned
        epoch, done = divmod(self.progress.step, per_epoch)
        shares = self.batches.shares(epoch, done, self._rank, self.workers)
        ids = [[name for name, _ in captioned.pairs(rows)] for rows in shares]
        began = time.perf_counter()
        for rows, inputs in zip(shares, ahead(self._source.batches(ids)), strict=True):
            waited = time.perf_counter() - began
            record = self.step(rows, inputs)
            seconds = time.perf_counter() - began
            times = {"seconds": round(seconds, 4), "wait_seconds": round(waited, 4)}
            self._count({**record, **times})
            yield {"kind": "step", "step": self.progress.step, "epoch": epoch + 1, **record, **times}
            began = time.perf_counter()

    def _count(self, record: dict[str, float]) -> None:
        added = [*_LOGGED.values(), "pairs", "seconds", "wait_seconds"]
        sums = {name: self.progress.sums.get(name, 0.0) + record[name] for name in added}
        self.progress = state.Progress(self.progress.step + 1, sums, self.progress.history)

    def step(self, rows: NDArray[np.int64], inputs: Inputs) -> dict[str, float]:
        """One step on this worker's rows of a batch; returns what is logged of it."""
        task, step = self.task, self.progress.step
        set_rates(self.optimiser, task.optimiser, step, self.batches.steps)
        self.optimiser.zero_grad(set_to_none=True)
        losses, pairs = self.gradients(rows, inputs)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), task.optimiser.max_grad_norm)
        measured = {name: getattr(losses, part).item() for part, name in _LOGGED.items()}
        measured["grad_norm"] = norm.item()
        self._require_finite(measured, rows)
        self.optimiser.step()
        with torch.no_grad():
            self.model.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        rates = {"lr_clip" if group["of_clip"] else "lr": group["lr"] for group in self.optimiser.param_groups}
        return {**measured, **rates, "logit_scale": self.model.logit_scale().item(), "pairs": pairs}

    def _require_finite(self, measured: dict[str, float], rows: NDArray[np.int64]) -> None:
        """Raise JobError before a step that would fill the weights with NaN."""
        broken = [name for name, value in measured.items() if not math.isfinite(value)]
        if broken:
            videos = ", ".join(name for name, _ in self.task.train.captioned.pairs(rows[:5]))
            raise JobError(
                f"step {self.progress.step + 1}: {', '.join(broken)} is not finite (batch of {videos} …). The last "
                "checkpoint is from before. Lower optimiser.lr, or set compute.precision to float32"
            )

    def gradients(self, rows: NDArray[np.int64], inputs: Inputs) -> tuple[Losses, int]:
        """The losses of the whole batch and the pairs in it; the model's gradients are those of the batch."""
        task = self.task

        def encode(part: slice) -> Rows:
            with task.compute.autocast():
                text = self._text(task.train, rows[part])
                videos = inputs.features(part, self.model, self._preprocess, task.loss.needs_patches)
            valid = None if inputs.valid is None else inputs.valid[part].to(self._device)
            return Rows(text.float(), videos, valid)  # scores and losses are in fp32

        return backward(self.model, encode, len(rows), self._mixing, task.loss, task.memory)

    @property
    def _mixing(self) -> Tensor | None:
        return self.model.mixing_for(self.task.frames)

    def _text(self, split: Split, rows: NDArray[np.int64]) -> Tensor:
        """Vectors of captions, by their rows: (b, D)."""
        if split.texts is not None:
            return torch.from_numpy(_stored(split.texts)[rows]).to(self._device)
        captions = [split.captioned.captions[row] for row in rows]
        return self.model.encode_text(self._tokenizer(captions, self.model.spec.text_length).ids.to(self._device))

    def scores(self, split: Split) -> Scores:
        """Every score of a split's captions against all of its videos."""
        captioned, active = split.captioned, self.task.rerank
        rows = np.arange(len(captioned.captions))
        ids, size = captioned.ids, self.task.batch_size
        source = split.source.open(1)
        with torch.inference_mode(), self.task.compute.autocast():
            text = torch.cat([self._text(split, rows[at : at + _TEXTS]).float() for at in range(0, len(rows), _TEXTS)])

        def blocks() -> Iterator[VideoFeatures]:
            for inputs in ahead(source.batches([ids[at : at + size] for at in range(0, len(ids), size)])):
                with self.task.compute.autocast():
                    yield inputs.features(slice(None), self.model, self._preprocess, active.needs_patches)

        with torch.inference_mode():
            return score_split(self.model, normalize(text, dim=-1), blocks(), captioned.owner, self._mixing, active)


@cache
def _stored(path: str) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = np.load(path, mmap_mode="r")
    return vectors


class Chief:
    """What rank 0 does beside its share: the log, validation, and the checkpoints."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._task = trainer, trainer.task
        step = trainer.progress.step
        log.rewind(self._task.log, step)
        self._board = Board(Path(self._task.out) / "tensorboard", step)
        if step:
            self.log({"kind": "resume", "step": step, "at": now(), "workers": trainer.workers})

    def log(self, record: dict[str, Any]) -> None:
        """Add a record to the log, and to TensorBoard."""
        log.append(self._task.log, record)
        self._board.add(record)

    def end_epoch(self) -> None:
        """Average the epoch, measure it, and keep it."""
        trainer, sums = self._trainer, self._trainer.progress.sums
        per_epoch = trainer.batches.steps_per_epoch
        step = trainer.progress.step
        record: dict[str, Any] = {"kind": "epoch", "epoch": step // per_epoch, "step": step}
        record.update({name: sums[name] / per_epoch for name in _LOGGED.values()})
        record.update(pairs=int(sums["pairs"]), seconds=sums["seconds"], wait_seconds=sums["wait_seconds"])
        record.update(self._measured())
        history = (*trainer.progress.history, record)
        trainer.progress = state.Progress(step, {}, history)
        self.log(record)
        self.save()

    def save(self) -> None:
        """Write a checkpoint, and remove those that are neither the last nor among the best."""
        trainer, task = self._trainer, self._task
        history = trainer.progress.history
        fusion = next((row["fusion"] for row in reversed(history) if "fusion" in row), task.rerank.model_dump())
        about = {**task.about, "fusion": fusion, "step": trainer.progress.step, "epochs": len(history)}
        state.save(task.checkpoints, trainer.model, trainer.optimiser, trainer.progress, about)
        state.prune(task.checkpoints, state.best(history, task.metric, task.keep_best))

    def _measured(self) -> dict[str, Any]:
        task = self._task
        if task.validation is None:
            return {}
        scores = self._trainer.scores(task.validation)
        weights, fitted = fit_weights(scores, task.rerank, task.fusion, task.k)
        found = ranks_of(scores, {"fused": weights, "released": task.rerank}, task.k)
        return {**recalls(found), "fusion": weights.model_dump(), "fitted": fitted}
