"""How the train job ends: the best checkpoint is put in its place, measured on the test split, and reported."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray

from mgvr_core.errors import JobError
from mgvr_core.evaluation.bootstrap import Interval, intervals
from mgvr_core.evaluation.metrics import Measure
from mgvr_core.evaluation.training_page import figures
from mgvr_core.evaluation.training_report import TrainingLog, read_log
from mgvr_core.files import placing
from mgvr_core.identity import hash_json
from mgvr_core.model import checkpoint
from mgvr_core.scoring.fusion import FusionWeights
from mgvr_core.training import state
from mgvr_core.training.validation import ranks_of
from pipelines.reporting import Chosen, report_training
from pipelines.runtime import summary
from pipelines.train_options import TrainConfig
from pipelines.training import Trainer
from pipelines.training_task import TrainingTask

TEST_FILE = "test.parquet"
"""Ranks of the right video, one row a test caption: video, caption, and a column for each score and system."""
_MADE_BY = b"mgvr.made_by"

Ranks = dict[str, NDArray[np.float64]]
"""Score or system -> (T,) rank of each caption's video."""


def finish(config: TrainConfig, task: TrainingTask, failures: list[dict[str, str]], began: float) -> Path:
    """Choose, export, measure and report; returns the folder of the model."""
    out = Path(task.out)
    last = max(state.steps(task.checkpoints), default=0)
    if last < task.batches.steps:
        raise JobError(
            f"the workers are done, but {task.checkpoints} holds no checkpoint of step {task.batches.steps}: on "
            "several nodes OUT must lie on storage that all of them share"
        )
    chosen = _choose(task, last)
    model = _export(task, chosen)
    test = _test(task, chosen) if task.test is not None else {}
    failures = [*failures, *_streamed_failures(out / "faults.jsonl")]
    log = read_log(task.log)
    page = report_training(config, task, chosen, model, log, test, failures)
    shutil.rmtree(out / "ray", ignore_errors=True)  # Ray's own notes of runs that are over
    print(_summary(task, chosen, log, test, failures, time.monotonic() - began, page))
    return out / "model"


def _choose(task: TrainingTask, last: int) -> Chosen:
    """The best checkpoint by the metric; without validation the last."""
    history = state.history(state.path_of(task.checkpoints, last))
    step = next(iter(state.best(history, task.metric, 1)), last)
    row = next(row for row in history if row["step"] == step)
    fusion = FusionWeights(**row["fusion"]) if "fusion" in row else task.rerank
    return Chosen(step, row["epoch"], task.metric, row.get(task.metric), fusion, row.get("fitted", False))


def _export(task: TrainingTask, chosen: Chosen) -> checkpoint.Checkpoint:
    """The chosen checkpoint without what only training needs."""
    found = checkpoint.load(state.path_of(task.checkpoints, chosen.step))
    about = {
        **task.about,
        "fusion": chosen.fusion.model_dump(),
        "step": chosen.step,
        "epochs": chosen.epoch,
        "chosen_by": chosen.in_words,
    }
    checkpoint.save(Path(task.out) / "model", found.model, about)
    return found


def _test(task: TrainingTask, chosen: Chosen) -> dict[str, Interval]:
    """R@K on the test split, with intervals over videos."""
    assert task.test is not None
    captioned = task.test.captioned
    videos = [captioned.ids[row] for row in captioned.owner]
    ranks = _ranks_of(task, chosen, videos)
    measures = {f"R@1 {name}": _hits(each, 1) for name, each in ranks.items()}
    for name in ("video", "fused"):
        measures.update({f"R@{k} {name}": _hits(ranks[name], k) for k in (5, 10)})
    measures[f"recall@{task.k} of stage 1"] = _hits(ranks["video"], task.k)
    return intervals(measures, groups=videos)


def _hits(ranks: NDArray[np.float64], k: int) -> Measure:
    return Measure((ranks <= k).astype(np.float64))


def _ranks_of(task: TrainingTask, chosen: Chosen, videos: list[str]) -> Ranks:
    """The ranks in `TEST_FILE`: measured now, or when a run that is done was summed up before."""
    assert task.test is not None
    captioned, file = task.test.captioned, Path(task.out) / TEST_FILE
    made_by = hash_json([task.run, chosen.step, task.k, captioned.digest()]).encode()
    if not file.exists() or (pq.read_schema(file).metadata or {}).get(_MADE_BY) != made_by:
        measure = ray.remote(_measure).options(num_gpus=task.compute.gpus)
        found: Ranks = ray.get(measure.remote(task, chosen.fusion))
        columns = {f"rank_{name}": each for name, each in found.items()}
        table = pa.table({"video": videos, "caption": captioned.captions, **columns})
        with placing(file) as partial:
            pq.write_table(table.replace_schema_metadata({_MADE_BY: made_by}), partial)
    return read_ranks(file)


def read_ranks(file: Path) -> Ranks:
    """The ranks of a `TEST_FILE`."""
    table = pq.read_table(file)
    names = [name for name in table.schema.names if name.startswith("rank_")]
    return {name.removeprefix("rank_"): table[name].to_numpy() for name in names}


def _measure(task: TrainingTask, fusion: FusionWeights) -> Ranks:
    """On a worker: the ranks of the test split by the exported model."""
    assert task.test is not None
    torch.set_num_threads(task.compute.thread_count(1))
    trainer = Trainer(replace(task, start=str(Path(task.out) / "model")), rank=0, workers=1)
    found = ranks_of(trainer.scores(task.test), {"fused": fusion}, task.k)
    return {name: each.mid for name, each in found.items()}


def _streamed_failures(file: Path) -> list[dict[str, str]]:
    """Videos that could not be decoded on the way, each once, whatever the number of epochs."""
    if not file.exists():
        return []
    found: dict[str, dict[str, str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # two workers wrote at once, on a file system that mixes such lines
            failure = json.loads(line)
            found.setdefault(failure["uri"], failure)
    return [found[uri] for uri in sorted(found)]


def _summary(
    task: TrainingTask,
    chosen: Chosen,
    log: TrainingLog,
    test: dict[str, Interval],
    failures: list[dict[str, str]],
    seconds: float,
    page: Path,
) -> str:
    last = log.epochs[-1]
    recalls = {name.removeprefix("R@1_"): 100 * value for name, value in last.items() if name.startswith("R@1_")}
    measured = ", ".join(f"{name} {value:.1f}" for name, value in recalls.items())
    tested = ", ".join(f"{name} {100 * figure.value:.1f}" for name, figure in test.items())
    lost = "".join(f"\n    {failure['uri']}: {failure['kind']}" for failure in failures)
    waited = figures(log.steps, log.epochs).wait_share or 0.0
    captioned = task.train.captioned
    rows = {
        "pairs": f"{len(captioned.captions)} captions of {captioned.videos} videos",
        "failed": f"{len(failures)} videos{lost}",
        "steps": f"{task.batches.steps} of {task.batch_size} pairs, {task.epochs} epochs",
        "loss": f"{last['loss']:.3f}",
        "waiting": f"{100 * waited:.1f} % of the steps' time was spent waiting for data",
        "validation": f"R@1 {measured}" if measured else "none",
        "chosen": chosen.in_words,
        "test": tested or "none",
        "warnings": "\n    ".join(["", *task.about["warnings"]]) if task.about["warnings"] else "none",
        "time": f"{seconds:.0f} s",
        "report": str(page),
        "checkpoint": str(Path(task.out) / "model"),
    }
    return summary("train: done", rows)
