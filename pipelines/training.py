"""What a training worker does: the same step on one worker or many (docs/method.md, section 3)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.evaluation.metrics import positions_from_scores, ranks, recall_at
from mgvr_core.model import checkpoint
from mgvr_core.model.eercf import EERCF, MAX_LOGIT_SCALE
from mgvr_core.model.tokenizer import Tokenizer, tokenizer_of
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.fusion import FusionWeights, fuse, score_each
from mgvr_core.training.gather import average_gradients, gather
from mgvr_core.training.losses import LossConfig, Losses, eercf_loss
from mgvr_core.training.optimiser import OptimiserConfig, build_optimiser, build_schedule
from mgvr_core.video.preprocess import PreprocessConfig
from pipelines.clips import Clips
from pipelines.models import DeviceConfig, preprocessing, text_vectors


@dataclass(frozen=True)
class Pairs:
    """Captions with their videos: row i of both belongs together."""

    videos: tuple[str, ...]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class TrainingTask:
    """Everything that a worker needs, as plain data."""

    start: str
    """Folder of the checkpoint to start from."""
    out: str
    """Folder of the checkpoint to write."""
    clips: tuple[str, ...]
    pairs: Pairs
    validation_clips: tuple[str, ...]
    validation: Pairs
    batch_size: int
    epochs: int
    seed: int
    compute: DeviceConfig
    loss: LossConfig
    optimiser: OptimiserConfig
    frames: int
    """Frames a video, for which U is needed."""
    about: dict[str, Any]
    """What the checkpoint says about itself."""
    log: str
    """JSON lines of metrics."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch; the rest of the pairs sits out, another rest every epoch."""
        return len(self.pairs.videos) // self.batch_size


def epoch_order(pairs: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of the pairs in an epoch: a function of seed and epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(pairs)


def train_worker(config: dict[str, Any]) -> None:
    """Ray Train's loop: runs on every worker; rank 0 validates, logs and writes the checkpoint."""
    task: TrainingTask = config["task"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(task.compute.thread_count(context.get_local_world_size()))
    torch.manual_seed(task.seed)
    device = task.compute.torch_device()
    loaded = checkpoint.load(Path(task.start))
    trainer = Trainer(task, loaded.model.to(device).train(), device, rank, workers)
    for epoch in range(task.epochs):
        began = time.perf_counter()
        for losses in trainer.epoch(epoch):
            if rank == 0:
                config["counter"].add.remote("steps", 1)
                config["counter"].set.remote("loss", round(losses.total.item(), 3))
        if rank == 0:
            seconds = time.perf_counter() - began
            record = {"epoch": epoch + 1, **trainer.averages(), "seconds": round(seconds, 2), **trainer.validate()}
            with Path(task.log).open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
            checkpoint.save(Path(task.out), trainer.model, {**task.about, "epochs": epoch + 1})
        else:
            record = {"epoch": epoch + 1}
        ray.train.report(record)


class Trainer:
    """A worker's model, optimiser and share of the batches."""

    def __init__(self, task: TrainingTask, model: EERCF, device: torch.device, rank: int, workers: int) -> None:
        self.model = model
        self._task, self._device, self._rank, self._workers = task, device, rank, workers
        self._clips, self._validation_clips = Clips(task.clips), Clips(task.validation_clips)
        self._preprocess: PreprocessConfig = preprocessing(model.spec)
        self._tokenizer: Tokenizer = tokenizer_of(model.spec)
        self._optimiser = build_optimiser(model, task.optimiser)
        self._schedule = build_schedule(self._optimiser, task.optimiser, task.steps_per_epoch * task.epochs)
        self._sums: dict[str, float] = {}
        self._steps = 0

    def epoch(self, epoch: int) -> Iterator[Losses]:
        """Take the steps of an epoch; yields the losses of each."""
        self._sums, self._steps = {}, 0
        order = epoch_order(len(self._task.pairs.videos), self._task.seed, epoch)
        share = self._task.batch_size // self._workers
        for step in range(self._task.steps_per_epoch):
            begin = step * self._task.batch_size + self._rank * share
            losses = self._step(order[begin : begin + share])
            for name in ("total", "weak", "strong", "pearson"):
                self._sums[name] = self._sums.get(name, 0.0) + getattr(losses, name).item()
            self._steps += 1
            yield losses

    def averages(self) -> dict[str, float]:
        """Mean losses of the last epoch."""
        return {
            f"loss_{name}" if name != "total" else "loss": value / self._steps for name, value in self._sums.items()
        }

    def _step(self, rows: NDArray[np.int64]) -> Losses:
        pairs, loss = self._task.pairs, self._task.loss
        with self._task.compute.autocast():
            text = self._texts([pairs.captions[row] for row in rows])
            videos = self._videos(self._clips, [pairs.videos[row] for row in rows], loss.needs_patches)
        # Scores and losses in fp32, over the batch of all workers.
        losses = eercf_loss(
            normalize(gather(text.float()), dim=-1),
            _gathered(videos),
            self.model.video_projection,
            self.model.mixing_for(self._task.frames),
            self.model.logit_scale(),
            loss,
        )
        self._optimiser.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        average_gradients(self.model)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._task.optimiser.max_grad_norm)
        self._optimiser.step()
        self._schedule.step()
        with torch.no_grad():
            self.model.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        return losses

    def _texts(self, captions: Sequence[str]) -> Tensor:
        ids = self._tokenizer(captions, self.model.spec.text_length).ids
        return self.model.encode_text(ids.to(self._device))

    def _videos(self, clips: Clips, ids: list[str], patches: bool) -> VideoFeatures:
        pixels, mask = clips.read(ids)
        images = self._preprocess.normalise(torch.from_numpy(pixels).to(self._device))
        return self.model.encode_videos(images, torch.from_numpy(mask).to(self._device), patches)

    def validate(self) -> dict[str, float]:
        """R@1 on the validation split of every score and of their released fusion, over all pairs."""
        pairs = self._task.validation
        if not pairs.videos:
            return {}
        ids = sorted(set(pairs.videos))
        weights = FusionWeights() if self.model.has_patches else FusionWeights(patch_weak=0)
        place = {name: row for row, name in enumerate(ids)}
        relevant = [[place[name]] for name in pairs.videos]
        self.model.eval()
        with torch.inference_mode(), self._task.compute.autocast():
            tokens = self._tokenizer(pairs.captions, self.model.spec.text_length).ids.to(self._device)
            text = text_vectors(self.model, tokens)
            mixing = self.model.mixing_for(self._task.frames)
            blocks: dict[str, list[Tensor]] = {}
            for begin in range(0, len(ids), self._task.batch_size):
                videos = self._videos(
                    self._validation_clips, ids[begin : begin + self._task.batch_size], weights.needs_patches
                )
                scores = score_each(text, videos, self.model.video_projection, mixing, weights)
                for name, values in {**scores, "fused": fuse(scores, weights)}.items():
                    blocks.setdefault(name, []).append(values.float().cpu())
        self.model.train()
        return {
            f"R@1_{name}": float(
                recall_at(ranks(positions_from_scores(torch.cat(values, dim=1).numpy(), relevant)), 1).mean()
            )
            for name, values in blocks.items()
        }


def _gathered(videos: VideoFeatures) -> VideoFeatures:
    return VideoFeatures(
        video=gather(videos.video.float()),
        frames=gather(videos.frames.float()),
        temporal=gather(videos.temporal.float()),
        patches=None if videos.patches is None else gather(videos.patches.float()),
        mask=gather(videos.mask),
    )
