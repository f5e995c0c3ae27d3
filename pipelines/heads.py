"""Train the weights of a learned scorer on stored features, distributed by Ray Train. No video is opened.

Reads    features: a feature set that holds the training videos; model: the model that made it, which stays as it is;
         corpus: a manifest with their captions; validation: another one, to choose the epoch on
Writes   OUT/head/                  the trained scorer, which retrieve and sweep take
         OUT/metrics.jsonl          the loss of every step, and R@1 after every epoch
         OUT/checkpoints/step-*/    while it runs: a killed run goes on from the last epoch, by the same command
         OUT/data/, run.json        encoded captions and unpacked features (safe to delete), and which run this is

The step is the same for any number of workers.

  mgvr train --scorer x_pool --features runs/features --corpus.uri train.jsonl --model.checkpoint runs/train/model \
--out runs/x_pool
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgvr_core.errors import JobError, MgvrError
from mgvr_core.scorers.scorer import Scorer
from mgvr_core.training import identity, log, state
from mgvr_core.training.head_files import CONFIG, load_head, read_head, save_head
from pipelines.environment import versions
from pipelines.fitting import fit
from pipelines.head_data import prepare
from pipelines.head_options import HeadConfig
from pipelines.head_plan import HeadPlan, plan
from pipelines.head_worker import FITTED, VALIDATED, HeadTask, head_worker
from pipelines.runtime import cluster, main, summary

__all__ = ["HeadConfig", "run", "train_head"]

_RESTARTS = 3
"""Times that the workers are started anew when one is lost."""
_SHOWN = 10
"""Missing videos that the summary names."""
_FOLDERS, _FILES = ("head", "checkpoints", "ray"), ("metrics.jsonl", "run.json")
"""What in OUT is a run's own: the data may be another's as well."""


def train_head(config: HeadConfig) -> Path:
    """Train a scorer, or go on with it; returns the folder of the head. Uses the Ray connection that there is.

    A run that is done is not done again. Raises MgvrError before Ray starts for wrong input, and where OUT holds
    another run.
    """
    began = time.monotonic()
    planned = plan(config)
    head = planned.out / "head"
    _make_room(planned, config.restart)
    if identity.is_claimed(planned.out) and (head / CONFIG).exists():
        print(_summary(f"train {config.scorer}: there is nothing to do, it is trained", head))
        return head
    identity.claim(planned.out, planned.run)
    with cluster(config.ray):
        task = task_of(config, planned)
        if max(state.steps(task.checkpoints), default=0) < task.batches.steps:
            fit(
                f"train {task.scorer}",
                head_worker,
                task,
                task.batches.steps,
                config.workers,
                config.compute,
                _RESTARTS,
                "the last epoch",
            )
        _finish(config, planned, task, time.monotonic() - began)
    print(_summary(f"train {config.scorer}: done", head))
    return head


def _make_room(planned: HeadPlan, restart: str) -> None:
    """Throw away what OUT holds of another run, or of any, where that was asked for."""
    if not identity.is_claimed(planned.out):
        return
    if restart == "changed":
        try:
            identity.require_same(planned.out, planned.run)
        except MgvrError:
            restart = "yes"
    if restart == "yes":
        for name in _FOLDERS:
            if (planned.out / name).exists():
                shutil.rmtree(planned.out / name)  # what can't be removed would be gone on from
        for name in _FILES:
            (planned.out / name).unlink(missing_ok=True)


def task_of(config: HeadConfig, planned: HeadPlan) -> HeadTask:
    """The run as plain data, its arrays on disk. Needs a Ray connection."""
    compute = config.compute.resolved()
    data = Path(config.data).absolute() if config.data is not None else planned.out / "data"
    splits = prepare(
        *(planned.splits, planned.reads, planned.setting.sizes, config.model, planned.made_by, compute, data)
    )
    return HeadTask(
        out=str(planned.out),
        scorer=config.scorer,
        setting=planned.setting,
        made_by=planned.made_by,
        train=splits[0],
        validation=splits[1] if planned.validation is not None else None,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        optimiser=config.optimiser,
        compute=compute,
        run=planned.run.digest,
    )


def _finish(config: HeadConfig, planned: HeadPlan, task: HeadTask, seconds: float) -> None:
    """Put the chosen epoch's scorer in its place, and remove what only the training needed."""
    last = max(state.steps(task.checkpoints), default=0)
    if last < task.batches.steps:
        raise JobError(
            f"the workers are done, but {task.checkpoints} holds no checkpoint of step {task.batches.steps}: on "
            "several nodes OUT must lie on storage that all of them share"
        )
    history = state.history(state.path_of(task.checkpoints, last))
    step = next(iter(state.best(history, VALIDATED, 1)), last)
    chosen = next(row for row in history if row["step"] == step)
    scorer = load_head(state.path_of(task.checkpoints, step), planned.made_by, planned.setting)
    about = {
        "config": config.model_dump(mode="json"),
        "run": task.run,
        "versions": versions(),
        "parameters": _size(scorer),
        "pairs": len(task.train.captioned),
        "videos": task.train.captioned.videos,
        "steps": task.batches.steps,
        "chosen": chosen,
        "epochs": history,
        "first_loss": _first_loss(task),
        "missing": list(planned.missing),
        "seconds": round(seconds, 1),
    }
    save_head(planned.out / "head", config.scorer, scorer, planned.made_by, about)
    for folder in (task.checkpoints, planned.out / "ray"):
        shutil.rmtree(folder, ignore_errors=True)


def _size(scorer: Scorer) -> int:
    return sum(parameter.numel() for parameter in scorer.parameters())


def _first_loss(task: HeadTask) -> float:
    return next(float(record["loss"]) for record in log.read(task.log) if record["kind"] == "step")


def _summary(title: str, head: Path) -> str:
    about: dict[str, Any] = read_head(head).about
    chosen, epochs = about["chosen"], about["epochs"]
    name = VALIDATED if VALIDATED in chosen else FITTED
    split = "validation" if name == VALIDATED else "training"
    choice = f"epoch {chosen['epoch']} of {len(epochs)}"
    lost = "".join(f"\n    {uri}" for uri in about["missing"][:_SHOWN])
    lost += "\n    …" if len(about["missing"]) > _SHOWN else ""
    rows = {
        "parameters": f"{about['parameters']:,}",
        "pairs": f"{about['pairs']} captions of {about['videos']} videos",
        "missing": f"{len(about['missing'])} videos that the features do not hold{lost}",
        "steps": f"{about['steps']} of {about['config']['batch_size']} pairs, {len(epochs)} epochs",
        "loss": f"{about['first_loss']:.3f} in the first step, {epochs[-1]['loss']:.3f} in the last epoch",
        "R@1": f"{100 * chosen[name]:.1f} among {chosen['pool']} {split} videos",
        "chosen": f"{choice}, the best on validation" if name == VALIDATED else f"{choice}, the last",
        "time": f"{about['seconds']:.0f} s",
        "head": str(head),
    }
    return summary(title, rows)


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code."""
    return main(HeadConfig, train_head, "mgvr train", __doc__, argv)


if __name__ == "__main__":
    sys.exit(run())
