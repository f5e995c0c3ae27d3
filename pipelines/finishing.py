"""How the train job ends: the best checkpoint is put in its place, measured on the test split, and reported."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from mgvr_core.errors import JobError
from mgvr_core.evaluation.bootstrap import Interval, intervals
from mgvr_core.evaluation.metrics import Measure, Ranks, recall_at
from mgvr_core.model import checkpoint
from mgvr_core.scoring.fusion import FusionWeights
from mgvr_core.training import log, state
from pipelines.measures import ranks_of
from pipelines.reporting import Chosen, report_training
from pipelines.runtime import summary
from pipelines.train_options import TrainConfig
from pipelines.training import Trainer, TrainingTask, pick

TEST_FILE = "test.parquet"
"""Ranks of the right video, one row a test caption: video, caption, and a column for each score and system."""


def finish(config: TrainConfig, task: TrainingTask, failures: list[dict[str, str]], began: float) -> Path:
    """Choose, export, measure and report; returns the folder of the model."""
    out = Path(task.out)
    last = max(state.steps(task.checkpoints), default=0)
    if last < task.batches.steps:
        raise JobError(
            f"the workers are done, but {task.checkpoints} holds no checkpoint of step {task.batches.steps}: on "
            "several nodes OUT must lie on storage that all of them share"
        )
    history = _history(state.path_of(task.checkpoints, last))
    step = pick(history, task.metric, last)
    row = next((row for row in history if row["step"] == step), {})
    fusion, fitted = _fusion(task, row)
    chosen = Chosen(step, row.get("epoch", task.epochs), task.metric, row.get(task.metric), fusion, fitted)
    _export(task, chosen)
    test = _test(task, chosen) if task.test is not None else {}
    failures = [*failures, *_streamed_failures(out / "faults.jsonl")]
    page = report_training(config, task, chosen, test, failures)
    shutil.rmtree(out / "ray", ignore_errors=True)  # Ray's own notes of runs that are over
    print(_summary(task, chosen, test, failures, time.monotonic() - began, page))
    return out / "model"


def _history(path: Path) -> list[dict[str, Any]]:
    return list(json.loads((path / "state.json").read_text(encoding="utf-8"))["history"])


def _fusion(task: TrainingTask, row: dict[str, Any]) -> tuple[FusionWeights, bool]:
    """The weights that go with an epoch, and whether they were fitted."""
    return (FusionWeights(**row["fusion"]), row["fitted"]) if "fusion" in row else (task.rerank, False)


def _export(task: TrainingTask, chosen: Chosen) -> None:
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


def _test(task: TrainingTask, chosen: Chosen) -> dict[str, Interval]:
    """R@K on the test split, with intervals over videos; the ranks behind them go to `TEST_FILE`."""
    assert task.test is not None
    measure = ray.remote(_ranks).options(num_gpus=task.compute.gpus)
    found: dict[str, Ranks] = ray.get(measure.remote(task, chosen.fusion))
    captioned = task.test.captioned
    videos = [captioned.ids[row] for row in captioned.owner]
    columns = {f"rank_{name}": each.mid for name, each in found.items()}
    table = pa.table({"video": videos, "caption": captioned.captions, **columns})
    pq.write_table(table, Path(task.out) / TEST_FILE)
    measures = {f"R@1 {name}": Measure(recall_at(each, 1)) for name, each in found.items()}
    for name in ("video", "fused"):
        measures.update({f"R@{k} {name}": Measure(recall_at(found[name], k)) for k in (5, 10)})
    measures[f"recall@{task.k} of stage 1"] = Measure(recall_at(found["video"], task.k))
    return intervals(measures, groups=videos)


def _ranks(task: TrainingTask, fusion: FusionWeights) -> dict[str, Ranks]:
    """On a worker: the ranks of the test split by the exported model."""
    assert task.test is not None
    torch.set_num_threads(task.compute.thread_count(1))
    trainer = Trainer(task, rank=0, workers=1)
    checkpoint_ = checkpoint.load(Path(task.out) / "model")
    trainer.model.load_state_dict(checkpoint_.model.state_dict())
    return ranks_of(trainer.scores(task.test), {"fused": fusion}, task.k)


def _streamed_failures(file: Path) -> list[dict[str, str]]:
    """Videos that could not be decoded on the way, each once, whatever the number of epochs."""
    if not file.exists():
        return []
    found: dict[str, dict[str, str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # two workers wrote at once, on a file system that mixes such lines
            found.setdefault(json.loads(line)["uri"], json.loads(line))
    return [found[uri] for uri in sorted(found)]


def _summary(
    task: TrainingTask,
    chosen: Chosen,
    test: dict[str, Interval],
    failures: list[dict[str, str]],
    seconds: float,
    page: Path,
) -> str:
    records = log.read(task.log)
    epochs = [record for record in records if record["kind"] == "epoch"]
    steps = [record for record in records if record["kind"] == "step"]
    last = epochs[-1]
    recalls = {name.removeprefix("R@1_"): 100 * value for name, value in last.items() if name.startswith("R@1_")}
    measured = ", ".join(f"{name} {value:.1f}" for name, value in recalls.items())
    tested = ", ".join(f"{name} {100 * figure.value:.1f}" for name, figure in test.items())
    lost = "".join(f"\n    {failure['uri']}: {failure['kind']}" for failure in failures)
    waited = sum(step["wait_seconds"] for step in steps) / max(1e-9, sum(step["seconds"] for step in steps))
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
