"""Train the model on captioned videos, distributed by Ray Train.

Reads    corpus.uri: a manifest of captioned videos (CSV, Parquet, JSONL with id, uri, caption or captions);
         model: a checkpoint to go on from, open_clip weights to start from, or an architecture with fresh weights;
         validation, test: more such manifests. The best epoch and the weights of the rerank are chosen on validation;
         test is measured once, at the end
Writes   OUT/model/                the chosen checkpoint, which encode and retrieve take
         OUT/checkpoints/step-*/   the last and the best: a killed run goes on from there, by the same command
         OUT/training.{html,md,json}, metrics.jsonl, tensorboard/   how it went
         OUT/test.parquet          the rank of the right video for every test caption, by every score
         OUT/clips/                decoded clips: kept, so that a second run decodes nothing; safe to delete
         OUT/start/, run.json      the weights that it began with, and which run this is

The step is the same for any number of workers: a batch of B on one worker gives what B / n on each of n workers gives.
With --features the heads alone are trained, from a feature set that this model made: no video is opened.
With --scorer the weights of another system's score are trained on such a set: see mgvr train --scorer x_pool --help.

  mgvr train --corpus.uri train.jsonl --model.name ViT-B-32-quickgelu --model.weights openai --out runs/train
  mgvr train jobs/train.yaml --epochs 10 --optimiser.lr 5e-4 --memory.chunk 16
  mgvr train jobs/train.yaml --trained heads --features runs/features --out runs/heads
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mgvr_core.model import checkpoint
from mgvr_core.training import state
from pipelines import finishing, heads, starting
from pipelines.fitting import fit
from pipelines.options import given_keys
from pipelines.runtime import cluster, main
from pipelines.train_options import TrainConfig
from pipelines.training import train_worker

__all__ = ["TrainConfig", "train"]


def train(config: TrainConfig) -> Path:
    """Run the job, or go on with it; returns the checkpoint's folder.

    Raises MgvrError before Ray starts for wrong input, and where OUT holds another run.
    """
    began = time.monotonic()
    plan = starting.plan(config)
    with cluster(config.ray):
        prepared = starting.prepare(config, plan)
        task = starting.task_of(config, plan, prepared)
        if max(state.steps(task.checkpoints), default=0) < task.batches.steps:
            checkpoint.save(Path(task.start), plan.start.model, task.about)
            fit(
                "train",
                train_worker,
                task,
                task.batches.steps,
                config.workers,
                config.compute,
                config.checkpoints.max_restarts,
                "the last checkpoint (checkpoints.max_restarts allows more)",
            )
        return finishing.finish(config, task, prepared.failures, began)


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if "scorer" in given_keys(words):
        return heads.run(words)
    return main(TrainConfig, train, "mgvr train", __doc__, words)


if __name__ == "__main__":
    sys.exit(run())
