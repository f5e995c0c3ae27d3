"""The course of a training run as hand-made SVG, of a size that does not grow with the number of steps.

More than 600 points become 200 stretches of equal length: a line through their means, and a band from the lowest to
the highest value of each, so that no spike is lost. Colours are CSS classes c0 to c6 of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from mgvr_core.evaluation.wording import count

_POINTS, _STRETCHES = 600, 200
_COLOURS = 7
_DECADES = 12  # of a log axis at most
_WIDTH, _HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 40

Floats = NDArray[np.float64]
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """A named line. weight: of each point in the means of its stretch (None: equal)."""

    name: str
    x: Floats
    y: Floats
    weight: Floats | None = None


@dataclass(frozen=True)
class Mark:
    """A vertical line at an x, with words for who points at it."""

    kind: Literal["resumed", "chosen"]
    at: float
    words: str


@dataclass(frozen=True)
class Plot:
    """A drawing with its caption; keys: (CSS class, name) of the legend."""

    title: str
    note: str
    keys: tuple[tuple[str, str], ...]
    svg: Markup


def course(steps: Sequence[Record], epochs: Sequence[Record], marks: Sequence[Mark], per_epoch: int) -> list[Plot]:
    """All plots for which there are figures. `marks` are in steps; `per_epoch`: steps an epoch."""
    in_epochs = [Mark(mark.kind, mark.at / per_epoch, mark.words) for mark in marks]
    recalls = dict.fromkeys(key for record in epochs for key in record if key.startswith("R@1_"))
    # The terms are logged before their weights; the Pearson term's scale is another one, so it has its own plot.
    losses = _lines(steps, {"loss": "total", "loss_weak": "weak", "loss_strong": "strong"})
    rates = _lines(steps, {"lr": "new parameters", "lr_clip": "CLIP"})
    peaks = [peak for line in rates if (peak := float(line.y.max())) > 0]
    norms = _lines(steps, {"grad_norm": "gradient norm"})
    shares = _lines(epochs, {key: key.removeprefix("R@1_") for key in recalls}, x="epoch")
    drawn = [
        _plot("Loss", "each term before its weight", losses, marks),
        _plot(
            "Validation R@1, percent",
            "by score",
            [Line(line.name, line.x, 100 * line.y) for line in shares],
            in_epochs,
            x_label="epoch",
        ),
        _plot("Throughput, pairs a second", "", _ratio(steps, "pairs", 1), marks),
        _plot("Waiting for data", "percent of a step's time", _ratio(steps, "wait_seconds", 100), marks),
        _plot("Learning rate", "", rates, marks, log=bool(peaks) and max(peaks) > 100 * min(peaks)),
        _plot("Gradient norm", "", norms, marks, log=any(line.y.max() > 100 * np.median(line.y) > 0 for line in norms)),
        _plot("Pearson term", "before its weight", _lines(steps, {"loss_pearson": "Pearson"}), marks),
    ]
    return [plot for plot in drawn if plot]


def thinned(line: Line) -> tuple[Floats, Floats, Floats, Floats]:
    """(x, mean, lowest, highest) of at most 600 points, equal-length vectors; few enough points stay as they are."""
    if len(line.x) <= _POINTS:
        return line.x, line.y, line.y, line.y
    starts = np.linspace(0, len(line.x), _STRETCHES, endpoint=False).astype(np.int64)
    weight = np.ones_like(line.y) if line.weight is None else line.weight
    return (
        np.add.reduceat(line.x, starts) / np.diff([*starts, len(line.x)]),
        np.add.reduceat(line.y * weight, starts) / np.add.reduceat(weight, starts),
        np.minimum.reduceat(line.y, starts),
        np.maximum.reduceat(line.y, starts),
    )


def bands(steps: Sequence[Record]) -> str:
    """What the bands are, where there are any."""
    if len(steps) <= _POINTS:
        return ""
    return (
        f"Each line is the mean of {_STRETCHES} stretches of steps, and its band reaches from their lowest to highest."
    )


def _lines(records: Sequence[Record], names: Mapping[str, str], x: str = "step") -> list[Line]:
    """A line for each key that any record has."""
    found = []
    for key, name in names.items():
        having = [record for record in records if key in record]
        if having:
            found.append(
                Line(
                    name,
                    np.array([record[x] for record in having], dtype=np.float64),
                    np.array([record[key] for record in having], dtype=np.float64),
                )
            )
    return found


def _ratio(steps: Sequence[Record], key: str, factor: float) -> list[Line]:
    """A quantity of a step by its seconds, weighted by them: the mean of a stretch is its sum by its time."""
    timed = [step for step in steps if step["seconds"] > 0]
    if not timed:
        return []
    seconds = np.array([step["seconds"] for step in timed], dtype=np.float64)
    amount = np.array([step[key] for step in timed], dtype=np.float64)
    return [Line("", np.array([step["step"] for step in timed], dtype=np.float64), factor * amount / seconds, seconds)]


def _plot(
    title: str, note: str, lines: Sequence[Line], marks: Sequence[Mark], *, log: bool = False, x_label: str = "step"
) -> Plot | None:
    if not lines:
        return None
    if log:
        note = ", ".join([*([note] if note else []), "log scale"])
    first, last = min(line.x[0] for line in lines), max(line.x[-1] for line in lines)
    if x_label == "epoch":
        first = 0.0  # where the run began, and can have been resumed before its first measurement
    elif first == last:
        first, last = first - 0.5, last + 0.5
    bottom, ticks = _log_scale(lines) if log else _scale(lines)
    top = ticks[-1]

    def across(x: float) -> float:
        return float(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (x - first) / (last - first))

    def up(y: float) -> float:
        share = math.log(max(y, bottom) / bottom) / math.log(top / bottom) if log else (y - bottom) / (top - bottom)
        return float(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share)

    label = f"{title} over {x_label}s: {', '.join(line.name for line in lines if line.name)}".removesuffix(": ")
    parts = [f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">']
    parts.extend(_heights(ticks, up, log))
    parts.extend(_lengths(first, last, across, x_label))
    # One a pixel, however often a run was resumed.
    shown = {(mark.kind, round(across(mark.at))): mark for mark in marks if first <= mark.at <= last}
    for (kind, pixel), mark in shown.items():
        parts.append(
            f'<line class="mark {kind}" x1="{pixel}" x2="{pixel}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}">'
            f"<title>{escape(mark.words)}</title></line>"
        )
    # The last line of a caption's list lies below the first, which is the one to see.
    for number, line in reversed(list(enumerate(lines))):
        parts.extend(_drawn(line, f"c{number % _COLOURS}", across, up))
    keys = [(f"c{number % _COLOURS}", line.name) for number, line in enumerate(lines) if len(lines) > 1]
    return Plot(title, note, tuple(keys), Markup("".join([*parts, "</svg>"])))  # safe: every text was escaped


def _heights(ticks: Sequence[float], up: Callable[[float], float], log: bool) -> Iterator[str]:
    """The grid and its figures."""
    for tick in ticks:
        at, text = up(tick), _power(tick) if log else _short(tick)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>'


def _lengths(first: float, last: float, across: Callable[[float], float], label: str) -> Iterator[str]:
    """The figures below the grid, and what they count."""
    for tick in _whole_ticks(first, last):
        at, text = across(tick), count(tick)
        inside = at + 4 * len(text) < _WIDTH  # half of it, at 8 units a letter
        at, anchor = (at, "middle") if inside else (_WIDTH, "end")
        yield f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="{anchor}">{text}</text>'
    yield f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(label)}</text>'


def _drawn(line: Line, colour: str, across: Callable[[float], float], up: Callable[[float], float]) -> Iterator[str]:
    """The band, the line, and dots where there are few points."""
    x, mean, low, high = thinned(line)

    def points(xs: Floats, ys: Floats) -> str:
        return " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in zip(xs, ys, strict=True))

    if len(x) < len(line.x):
        outline = points(np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]]))
        yield f'<polygon class="band {colour}" points="{outline}"/>'
    yield f'<polyline class="line {colour}" points="{points(x, mean)}"/>'
    if len(x) <= 30:
        for a, b in zip(x, mean, strict=True):
            yield f'<circle class="dot {colour}" cx="{across(a):.1f}" cy="{up(b):.1f}" r="3.2"/>'


def _scale(lines: Sequence[Line]) -> tuple[float, list[float]]:
    """The foot of a linear axis, 0 or below, and its ticks up to its top."""
    lowest = min(0.0, *(float(line.y.min()) for line in lines))
    highest = max(float(line.y.max()) for line in lines)
    if lowest == highest == 0:
        return 0.0, [0.0, 1.0]
    step = _step(max(highest, 0.0) - lowest, 5)
    first = math.floor(lowest / step + 1e-9)
    last = max(math.ceil(highest / step - 1e-9), first + 1)
    return first * step, [tick * step for tick in range(first, last + 1)]


def _log_scale(lines: Sequence[Line]) -> tuple[float, list[float]]:
    """The same of a log axis, in powers of ten: two decades below the lowest peak; what is less lies at its foot."""
    peaks = [float(line.y.max()) for line in lines if line.y.max() > 0]
    positive = [float(line.y[line.y > 0].min()) for line in lines if line.y.max() > 0]
    low = math.floor(math.log10(max(min(positive), min(peaks) / 100)) + 1e-9)
    if len(lines) == 1:
        low = math.floor(math.log10(min(positive)) + 1e-9)
    high = max(math.ceil(math.log10(max(peaks)) - 1e-9), low + 1)
    low = max(low, high - _DECADES)
    return 10.0**low, [10.0**power for power in range(low, high, -(-(high - low) // 6))] + [10.0**high]


def _step(span: float, parts: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that divides a span into at most `parts`."""
    power = 10.0 ** math.floor(math.log10(span / parts))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power * parts >= span * (1 - 1e-9))


def _whole_ticks(first: float, last: float) -> list[int]:
    step = max(1, round(_step(last - first, 6)))
    begin = math.ceil(first)
    ticks = range(-(-begin // step) * step, math.floor(last) + 1, step)
    return [begin, *(tick for tick in ticks if tick >= begin + 0.4 * step)]


def _short(value: float) -> str:
    """0.30000000000000004 -> 0.3, 12000 -> 12,000, 1e-06 -> 1e−6."""
    if 1000 <= abs(value) < 1e6:
        return count(round(value)).replace("-", "−")
    return f"{value:.6g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")


def _power(value: float) -> str:
    """0.0001 -> 1e−4; a power of ten."""
    return f"{value:g}" if 0.01 <= value <= 1000 else f"1e{round(math.log10(value))}".replace("-", "−")
