"""The report of a training, from its log and what was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgvr_core.evaluation.bootstrap import Interval
from mgvr_core.evaluation.training_page import Selection
from mgvr_core.evaluation.training_report import Fusion, Setup, TrainingLog, TrainingReport, write_training_report
from mgvr_core.features.contents import now
from mgvr_core.model.checkpoint import Checkpoint
from mgvr_core.scoring.fusion import FusionWeights
from mgvr_core.training.optimiser import build_optimiser
from mgvr_core.training.trained import set_trained, trained_parameters
from pipelines.environment import command_line, hardware, versions
from pipelines.models import model_fingerprint
from pipelines.train_options import TrainConfig
from pipelines.training_task import TrainingTask


@dataclass(frozen=True)
class Chosen:
    """The checkpoint that a run comes to."""

    step: int
    epoch: int
    metric: str
    value: float | None
    """Of the metric on validation; None without a validation split."""
    fusion: FusionWeights
    fitted: bool
    """Whether those were fitted on validation."""

    @property
    def in_words(self) -> str:
        """For a reader."""
        if self.value is None:
            return f"step {self.step}, the last: there is no validation split to choose on"
        return f"epoch {self.epoch} (step {self.step}), by {self.metric} = {100 * self.value:.1f} % on validation"


def report_training(
    config: TrainConfig,
    task: TrainingTask,
    chosen: Chosen,
    found: Checkpoint,
    log: TrainingLog,
    test: dict[str, Interval],
    failures: list[dict[str, str]],
) -> Path:
    """Write OUT/training.{html,md,json}; returns the page."""
    out, model = Path(task.out), found.model
    set_trained(model, task.trained)
    build_optimiser(model, task.optimiser)  # which freezes CLIP where its rate is 0
    trained, total = trained_parameters(model)
    captioned = task.train.captioned
    report = TrainingReport(
        title=f"mgvr train: {out.name}",
        created=now(),
        command=command_line(),
        configuration=config.model_dump(mode="json"),
        versions=versions(),
        hardware=hardware(),
        fingerprint={**{name: str(part) for name, part in model_fingerprint(model).parts.items()}, "run": task.run},
        setup=Setup(
            pairs=len(captioned),
            videos=captioned.videos,
            batch_size=task.batch_size,
            steps_per_epoch=task.batches.steps_per_epoch,
            epochs=task.epochs,
            workers=config.workers,
            parameters_trained=trained,
            parameters_total=total,
        ),
        log=log,
        selection=Selection(chosen.metric, chosen.epoch, chosen.step, chosen.value),
        fusion=Fusion(chosen.fusion.model_dump(), "fitted" if chosen.fitted else "released"),
        test=test,
        failures=tuple(failures),
        warnings=tuple(task.about["warnings"]),
    )
    return write_training_report(report, out)["training.html"]
