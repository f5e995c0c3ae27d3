"""How a training log's figures read: shared by the Markdown and the HTML page, so that they never disagree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mgvr_core.evaluation.bootstrap import LEVEL, SAMPLES, Interval
from mgvr_core.evaluation.training_plots import Mark
from mgvr_core.evaluation.wording import count, moment, percent, seconds

Record = Mapping[str, Any]

FAILURES_SHOWN = 50
"""On the HTML page; the Markdown shows fewer."""


@dataclass(frozen=True)
class Selection:
    """The checkpoint that became the model.

    metric: the epoch records' key that chose it, as `R@1_fused`; value: its figure, None without validation, where
    the last step is the model.
    """

    metric: str
    epoch: int
    step: int
    value: float | None = None


@dataclass(frozen=True)
class Figures:
    """The run in a few numbers, None where nothing was logged.

    final_loss: the mean over the last epoch, or else of the last step. pairs_per_second: all pairs by the time of all
    steps. wait_share: of that time, what was spent waiting for data (0 to 1).
    """

    final_loss: float | None
    pairs_per_second: float | None
    wait_share: float | None


@dataclass(frozen=True)
class Tile:
    """A figure in large print."""

    label: str
    value: str
    unit: str
    note: str
    main: bool = False


@dataclass(frozen=True)
class Table:
    """A header and rows of the same length, as text; `marked`: number of the row to stress."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int | None = None


def figures(steps: Sequence[Record], epochs: Sequence[Record]) -> Figures:
    """What the tiles show, from the steps' records, or from the epochs' where there are none."""
    records = steps or epochs
    last = epochs[-1] if epochs else steps[-1] if steps else None
    return Figures(last["loss"] if last else None, _rate(records), _waited(records))


def tiles(steps: Sequence[Record], epochs: Sequence[Record], selection: Selection) -> Iterator[Tile]:
    """The summary line."""
    found = figures(steps, epochs)
    where = f"mean of epoch {count(epochs[-1]['epoch'])}" if epochs else f"step {steps[-1]['step']}" if steps else ""
    yield Tile("Final loss", "–" if found.final_loss is None else f"{found.final_loss:.3f}", "", where)
    if selection.value is None:
        yield Tile("Validation R@1", "–", "", "nothing was validated", main=True)
    else:
        place = f"epoch {count(selection.epoch)}, step {count(selection.step)}"
        yield Tile(f"Best validation {_metric(selection)}", percent(selection.value), "%", place, main=True)
    rate = found.pairs_per_second
    yield Tile("Throughput", "–" if rate is None else _speed(rate), "pairs/s", f"over {_number(len(steps), 'step')}")
    share = found.wait_share
    yield Tile("Waiting for data", "–" if share is None else percent(share), "%", "of the steps' time")


def chosen(selection: Selection) -> str:
    """Which checkpoint is the model, and why."""
    where = f"epoch {count(selection.epoch)} (step {count(selection.step)})"
    if selection.value is None:
        return f"The model is the last checkpoint, {where}: there was no validation split to choose one by."
    return (
        f"The model is the checkpoint of {where}, the best by {_metric(selection)} on the validation split: "
        f"{percent(selection.value)} %."
    )


def marks(resumes: Sequence[Record], selection: Selection) -> list[Mark]:
    """Where the plots have vertical lines, in steps."""
    resumed = [
        Mark("resumed", record["step"], f"resumed after step {record['step']}, {moment(record['at'])}")
        for record in resumes
    ]
    return [*resumed, Mark("chosen", selection.step, f"chosen checkpoint, step {selection.step}")]


def losses(epochs: Sequence[Record], selection: Selection) -> Table:
    """Loss, its terms and the time of each epoch."""
    names = {"loss": "Loss", "loss_weak": "weak", "loss_strong": "strong", "loss_pearson": "Pearson"}
    there = [key for key in names if any(key in record for record in epochs)]
    rows = tuple(
        (
            count(record["epoch"]),
            count(record["step"]),
            *(f"{record[key]:.3f}" if key in record else "–" for key in there),
            *_timed(record),
        )
        for record in epochs
    )
    header = ("Epoch", "Last step", *(names[key] for key in there), "Pairs/s", "Waiting, %", "Time")
    return Table(header, rows, _row(epochs, selection))


def recalls(epochs: Sequence[Record], selection: Selection) -> Table | None:
    """Validation R@1 in percent of every score and of the fusions, or None where nothing was validated."""
    keys = list(dict.fromkeys(key for record in epochs for key in record if key.startswith("R@1_")))
    if not keys:
        return None
    rows = tuple(
        (count(record["epoch"]), *(percent(record[key]) if key in record else "–" for key in keys)) for record in epochs
    )
    return Table(("Epoch", *(key.removeprefix("R@1_") for key in keys)), rows, _row(epochs, selection))


def tests(figures: Mapping[str, Interval | float]) -> Table:
    """The final figures on the test split, in percent."""
    rows = tuple(
        (name, percent(figure.value), f"{percent(figure.low)}–{percent(figure.high)}")
        if isinstance(figure, Interval)
        else (name, percent(figure), "")
        for name, figure in figures.items()
    )
    return Table(("Test split", "Percent", f"{100 * LEVEL:g} % interval"), rows)


def tests_note(figures: Mapping[str, Interval | float]) -> str:
    """How the intervals were made, where there are any."""
    if not any(isinstance(figure, Interval) for figure in figures.values()):
        return ""
    return f"Ranges are {100 * LEVEL:g} % bootstrap intervals ({count(SAMPLES)} resamples)."


def failures(found: Sequence[Record], shown: int = FAILURES_SHOWN) -> Table:
    """The first of the videos that could not be used."""
    keys = ("uri", "stage", "kind", "message")
    rows = tuple(tuple(str(one.get(key, "")) for key in keys) for one in found[:shown])
    return Table(("Video", "Stage", "Kind", "Message"), rows)


def failures_note(found: Sequence[Record], shown: int = FAILURES_SHOWN) -> str:
    """How many there are, and where the rest is."""
    total = f"{_number(len(found), 'video')} could not be used."
    more = len(found) - shown
    return f"{total} Here are the first {shown}; {count(more)} more are in training.json." if more > 0 else total


def resumes_note(resumes: Sequence[Record]) -> str:
    """Where the run was resumed: the last ten times."""
    said = ", ".join(
        f"after step {count(one['step'])} ({moment(one['at'])}"
        + (f", {_number(one['workers'], 'worker')})" if "workers" in one else ")")
        for one in resumes[-10:]
    )
    last = "" if len(resumes) <= 10 else "; the last 10 times"
    times = "once" if len(resumes) == 1 else f"{count(len(resumes))} times"
    return f"The run was resumed {times}{last}: {said}."


def _metric(selection: Selection) -> str:
    return selection.metric.replace("_", " ", 1)


def _row(epochs: Sequence[Record], selection: Selection) -> int | None:
    return next((row for row, record in enumerate(epochs) if record["step"] == selection.step), None)


def _rate(records: Sequence[Record]) -> float | None:
    time = sum(record["seconds"] for record in records)
    return sum(record["pairs"] for record in records) / time if time > 0 else None


def _waited(records: Sequence[Record]) -> float | None:
    time = sum(record["seconds"] for record in records)
    return sum(record["wait_seconds"] for record in records) / time if time > 0 else None


def _timed(record: Record) -> tuple[str, str, str]:
    rate, waited = _rate([record]), _waited([record])
    return (
        "–" if rate is None else _speed(rate),
        "–" if waited is None else percent(waited),
        seconds(record["seconds"]),
    )


def _speed(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _number(number: int, what: str) -> str:
    return f"{count(number)} {what}{'' if number == 1 else 's'}"
