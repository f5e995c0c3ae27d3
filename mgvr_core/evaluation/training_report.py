"""The report of a training run: its log read back, as a document for programs and two pages for people.

`training.json` has the fields of `TrainingReport` but the steps, which `metrics.jsonl` beside it holds, and `figures`
(see `training_page.Figures`). Rates are fractions from 0 to 1 (the pages show percents); no value is NaN or infinite.
Keys are only ever added under one `schema` number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation import training_page, training_plots, wording
from mgvr_core.evaluation.bootstrap import Interval
from mgvr_core.evaluation.pages import require_finite, template, to_json
from mgvr_core.evaluation.training_page import Record, Selection
from mgvr_core.files import replacing

SCHEMA = 1

_KINDS = {
    "step": {"step", "epoch", "loss", "pairs", "seconds", "wait_seconds"},
    "epoch": {"step", "epoch", "loss", "pairs", "seconds", "wait_seconds"},
    "resume": {"step", "at"},
}
"""What is read of a log, and the keys without which a record can't be shown."""


@dataclass(frozen=True)
class TrainingLog:
    """The records of a run by kind, in the order in which they were written, each with the keys of its JSON line."""

    steps: tuple[Record, ...] = ()
    epochs: tuple[Record, ...] = ()
    resumes: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Setup:
    """What was trained on what: batch_size is that of all workers together; parameters are single numbers."""

    pairs: int
    videos: int
    batch_size: int
    steps_per_epoch: int
    epochs: int
    workers: int
    parameters_trained: int
    parameters_total: int


@dataclass(frozen=True)
class Fusion:
    """Weights of the rerank that go with the model, and whether they were fitted to the validation split."""

    weights: Mapping[str, float]
    origin: Literal["fitted", "released"]


@dataclass(frozen=True)
class TrainingReport:
    """A training run.

    created: ISO 8601 with the offset. failures: videos that could not be used, each with uri, stage, kind and message.
    test: name -> figure from 0 to 1, such as "R@1 fused"; its intervals are those of `bootstrap.intervals` with its
    defaults. Raises MgvrError at `to_json` for a figure that is NaN or infinite.
    """

    title: str
    created: str
    command: str
    configuration: Mapping[str, Any]
    versions: Mapping[str, str]
    hardware: Mapping[str, str]
    fingerprint: Mapping[str, str]
    setup: Setup
    log: TrainingLog
    selection: Selection
    fusion: Fusion
    test: Mapping[str, Interval | float] = field(default_factory=dict)
    failures: tuple[Record, ...] = ()
    warnings: tuple[str, ...] = ()
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The document as JSON text. Raises MgvrError where a number is NaN or infinite, naming its key."""
        document = asdict(replace(self, log=replace(self.log, steps=())))
        del document["log"]["steps"]
        require_finite({"steps": self.log.steps}, "training report", "log")
        document["figures"] = asdict(training_page.figures(self.log.steps, self.log.epochs))
        return to_json(document, "training report")


def read_log(path: Path) -> TrainingLog:
    """The log of a run, one JSON object a line; other kinds of records are passed over.

    A last line that a kill cut short is left out. Raises MgvrError, with the line's number, for any other line that
    is no record, and where a record lacks a key that every writer gives it.
    """
    found: dict[str, list[Record]] = {kind: [] for kind in _KINDS}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    except OSError as error:
        raise MgvrError(f"{path}: can't read the training log: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise MgvrError(f"{path}, line {number}: not JSON: remove the line, or train anew") from None
        if not isinstance(record, dict):
            raise MgvrError(f"{path}, line {number}: not a JSON object: remove the line, or train anew")
        kind = record.pop("kind", None)
        if kind in _KINDS:
            missing = sorted(_KINDS[kind] - record.keys())
            if missing:
                what = f"a record of kind {kind} without {', '.join(missing)}"
                raise MgvrError(f"{path}, line {number}: {what}: remove the line, or train anew")
            found[kind].append(record)
    return TrainingLog(tuple(found["step"]), tuple(found["epoch"]), tuple(found["resume"]))


def write_training_report(report: TrainingReport, folder: Path) -> dict[str, Path]:
    """Write training.json, training.md and training.html into `folder`, each whole or not at all; name -> path.

    Raises MgvrError, before any file is touched, where a figure is NaN or infinite.
    """
    texts = {
        "training.json": report.to_json(),
        "training.md": _rendered(report, "training.md.j2"),
        "training.html": _rendered(report, "training.html.j2"),
    }
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text)
    return {name: folder / name for name in texts}


def _rendered(report: TrainingReport, name: str) -> str:
    log, page = report.log, training_page
    return template(name).render(
        report=report,
        words=wording,
        page=page,
        facts=list(_facts(report.setup)),
        bands=training_plots.bands(log.steps),
        plots=training_plots.course(
            log.steps, log.epochs, page.marks(log.resumes, report.selection), report.setup.steps_per_epoch
        ),
    )


def _facts(setup: Setup) -> Iterator[tuple[str, str]]:
    """(label, value) lines about what was trained on what."""
    share = wording.percent(setup.parameters_trained / setup.parameters_total if setup.parameters_total else 0)
    yield "Training pairs (a caption with its video)", wording.count(setup.pairs)
    yield "Training videos", wording.count(setup.videos)
    yield "Pairs a step", wording.count(setup.batch_size)
    yield "Steps an epoch", wording.count(setup.steps_per_epoch)
    yield "Epochs", wording.count(setup.epochs)
    yield "Workers", wording.count(setup.workers)
    trained, total = wording.count(setup.parameters_trained), wording.count(setup.parameters_total)
    yield "Parameters trained", f"{trained} of {total} ({share} %)"
