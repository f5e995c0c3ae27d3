"""Train the model on captioned videos, distributed by Ray Train.

Reads    corpus.uri: a manifest of captioned videos (CSV, Parquet, JSONL with id, uri, caption or captions);
         model: a checkpoint to go on from, open_clip weights to start from, or an architecture with fresh weights
Writes   OUT/model/          the checkpoint (model.safetensors, config.json) that encode and retrieve take
         OUT/metrics.jsonl   losses and validation R@1 of every epoch
         OUT/clips/          decoded clips: kept, so that a second run decodes nothing; safe to delete

The step is the same for any number of workers: features are gathered with their gradients, and a batch of B on one
worker gives what B / n on each of n workers gives.

  mgvr train --corpus.uri train.jsonl --model.name ViT-B-32-quickgelu --model.weights openai --out runs/train
  mgvr train jobs/train.yaml --epochs 10 --optimiser.lr 5e-4
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pydantic import Field, model_validator
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from mgvr_core.config import LocalPath, Section
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.errors import MgvrError
from mgvr_core.model import checkpoint
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.training.losses import LossConfig
from mgvr_core.training.optimiser import OptimiserConfig
from mgvr_core.video.decoders import decoder_version
from mgvr_core.video.sampling import SamplingConfig
from pipelines.clips import ClipFiles, decode_clips
from pipelines.decoding import DecodingConfig
from pipelines.environment import versions
from pipelines.identifying import list_corpus, unique_videos
from pipelines.models import DeviceConfig, sampling_for
from pipelines.progress import progress
from pipelines.runtime import RayConfig, cluster, main, summary
from pipelines.training import Pairs, TrainingTask, train_worker


class TrainConfig(Section):
    """mgvr train."""

    out: LocalPath = Field(description="folder of the run; the checkpoint goes to OUT/model")
    corpus: CorpusConfig = Field(description="captioned training videos")
    validation: CorpusConfig | None = Field(None, description="captioned validation videos, measured after every epoch")
    model: ModelConfig
    sampling: SamplingConfig = SamplingConfig()
    decoding: DecodingConfig = DecodingConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    batch_size: int = Field(240, gt=1, description="pairs in a batch, over all workers")
    epochs: int = Field(5, gt=0, description="times that every caption is seen")
    workers: int = Field(1, gt=0, description="training workers; on a GPU cluster one a GPU")
    seed: int = Field(0, description="seed of the order of the pairs")
    compute: DeviceConfig = DeviceConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _whole_shares(self) -> TrainConfig:
        if self.batch_size % self.workers:
            raise ValueError(f"batch_size {self.batch_size} can't be shared equally by {self.workers} workers")
        return self


def train(config: TrainConfig) -> Path:
    """Run the job; returns the checkpoint's folder. Raises MgvrError before Ray starts for wrong input."""
    began = time.monotonic()
    out = Path(config.out).absolute()
    config.compute.require_present(config.ray)
    videos = _captioned(config.corpus)
    validation = None if config.validation is None else _captioned(config.validation)
    captions = [text for texts in videos["captions"].to_pylist() for text in texts]
    _require_batch(len(captions), config.batch_size)
    start = load_model(config.model, captions)
    sampling = sampling_for(start, config.sampling)
    start.model.mixing_for(sampling.frames)
    if config.loss.needs_patches and not start.model.has_patches:
        raise MgvrError(f"{start.source} has no patch features: set --loss.patch_weak 0 --loss.tib_patch 0")
    decoder_version(config.decoding.decoder)  # an unknown decoder is refused here, not by the first actor
    total = sum(len(texts) for texts in videos["captions"].to_pylist())
    if total < config.batch_size:
        raise MgvrError(f"{total} captions make no batch of {config.batch_size}: lower --batch_size")
    size = start.model.spec.image_size
    with cluster(config.ray):
        rows, refused = unique_videos(videos, config.decoding)
        decoding = (sampling, size, config.decoding, out / "clips", config.ray.stall_s)
        clips = decode_clips(rows, *decoding)
        validation_clips = ClipFiles((), ())
        if validation is not None:
            validation, refused_there = unique_videos(validation, config.decoding)
            refused += refused_there
            validation_clips = decode_clips(validation, *decoding)
        about = {"sampling": sampling.model_dump(mode="json"), "started_from": start.source, "versions": versions()}
        checkpoint.save(out / "start", start.model, about)
        task = TrainingTask(
            start=str(out / "start"),
            out=str(out / "model"),
            clips=clips.paths,
            pairs=_pairs(rows, clips),
            validation_clips=validation_clips.paths,
            validation=Pairs((), ()) if validation is None else _pairs(validation, validation_clips),
            batch_size=config.batch_size,
            epochs=config.epochs,
            seed=config.seed,
            compute=config.compute.resolved(),
            loss=config.loss,
            optimiser=config.optimiser,
            frames=sampling.frames,
            about={**about, "config": config.model_dump(mode="json")},
            log=str(out / "metrics.jsonl"),
        )
        _require_batch(len(task.pairs.videos), config.batch_size)  # of what could be decoded
        Path(task.log).unlink(missing_ok=True)
        _fit(config, task, out)
    failures = [*clips.failures, *validation_clips.failures]
    failures += [{"uri": row["uri"], **json.loads(row["fault"])} for row in refused]
    print(_summary(task, failures, time.monotonic() - began))
    return Path(task.out)


def _fit(config: TrainConfig, task: TrainingTask, out: Path) -> None:
    gpu = bool(config.compute.gpus)
    with progress("train", task.steps_per_epoch * task.epochs, "steps") as counter:
        TorchTrainer(
            train_worker,
            train_loop_config={"task": task, "counter": counter},
            scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=gpu),
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            # Ray resumes a run of the same name by itself; what a run means here is decided by its folder.
            run_config=RunConfig(name=f"train-{time.time_ns()}", storage_path=str(out / "ray")),
        ).fit()


def _captioned(corpus: CorpusConfig) -> pa.Table:
    """The corpus; raises MgvrError where a video has no caption."""
    videos = list_corpus(corpus)
    for row in videos.to_pylist():
        if not row["captions"]:
            raise MgvrError(f"{corpus.uri}: {row['uri']} has no caption, so it can't be trained on: remove the row")
    return videos


def _require_batch(pairs: int, batch_size: int) -> None:
    if pairs < batch_size:
        raise MgvrError(f"{pairs} captions make no batch of {batch_size}: lower --batch_size")


def _pairs(videos: pa.Table, clips: ClipFiles) -> Pairs:
    """Every caption with its video, of the videos that could be decoded."""
    lost = {failure["id"] for failure in clips.failures}
    pairs = [(row["id"], caption) for row in videos.to_pylist() if row["id"] not in lost for caption in row["captions"]]
    return Pairs(tuple(name for name, _ in pairs), tuple(caption for _, caption in pairs))


def _summary(task: TrainingTask, failures: list[dict[str, str]], seconds: float) -> str:
    last = json.loads(Path(task.log).read_text(encoding="utf-8").splitlines()[-1])
    recalls = {name.removeprefix("R@1_"): 100 * value for name, value in last.items() if name.startswith("R@1_")}
    measured = ", ".join(f"{name} {value:.1f}" for name, value in recalls.items())
    lost = "".join(f"\n    {failure['uri']}: {failure['kind']}" for failure in failures)
    rows = {
        "pairs": f"{len(task.pairs.videos)} captions of {len(set(task.pairs.videos))} videos",
        "failed": f"{len(failures)} videos{lost}",
        "steps": f"{task.steps_per_epoch * task.epochs} of {task.batch_size} pairs, {task.epochs} epochs",
        "loss": f"{last['loss']:.3f}",
        "validation": f"R@1 {measured}" if measured else "none",
        "time": f"{seconds:.0f} s",
        "checkpoint": task.out,
    }
    return summary("train: done", rows)


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code."""
    return main(TrainConfig, train, "mgvr train", __doc__, argv)


if __name__ == "__main__":
    sys.exit(run())
