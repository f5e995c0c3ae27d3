"""R@1 against what it costs, as hand-made SVG: points with the systems' numbers, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from markupsafe import Markup, escape

from mgvr_core.evaluation.systems_wording import Numbered, Section, called
from mgvr_core.evaluation.wording import percent, quantity, seconds, size

_WIDTH, _HEIGHT = 440, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 14, 14, 42
_DOT, _DIGIT, _GAP, _LINE = 4.0, 7.0, 4.0, 11.0  # radius of a point, width of a digit, beside a number, its height
_LOG2 = math.log10(2)
_BESIDE, _ABOVE = (0, 4, 2, 6, 1, 3, 5, 7), (3, 2, 1, 7, 6, 0, 5, 4)  # eighths of a turn, from the right
_RINGS = (11.0, 18.0, 27.0, 38.0, 50.0)

Point = tuple[Numbered, float, float]
"""A system, its cost and its R@1."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Cost:
    """An axis. show: a value in words; tick: a round one, which is a power of the base or near one."""

    title: str
    words: str
    of: Callable[[Numbered], float | None]
    show: Callable[[float], str]
    tick: Callable[[float], str]
    base: Literal[2, 10] = 10


def _time(value: float) -> str:
    return f"{value:g} s" if value >= 1 else f"{1000 * value:g} ms"


COSTS = (
    Cost("multiply-adds", "multiply-adds of scoring a query", lambda row: row.system.macs, quantity, quantity),
    Cost("measured time", "time of 1,000 queries on one thread", lambda row: row.system.seconds, seconds, _time),
    Cost("bytes a video", "bytes read of a video", lambda row: row.system.bytes, size, size, base=2),
)


@dataclass(frozen=True)
class Pareto:
    """A plot with its words; front: the systems that none beats in both, from the cheapest."""

    title: str
    svg: Markup
    front: tuple[Numbered, ...]


@dataclass(frozen=True)
class Label:
    """Where a number stands, centred at x and y, and whether a line must lead to its point."""

    x: float
    y: float
    box: Box
    led: bool


def paretos(section: Section) -> Iterator[Pareto]:
    """A plot for every cost that at least two of the systems have; a cost of 0 has no place on a log axis."""
    for cost in COSTS:
        known = [
            (row, float(value), row.system.figures["R@1"].value)
            for row in section.rows
            if (value := cost.of(row)) and "R@1" in row.system.figures
        ]
        if len(known) > 1:
            front = pareto_front(known)
            yield Pareto(f"R@1 against {cost.title}", _drawn(known, front, cost), tuple(row for row, _, _ in front))


def pareto_front(known: Sequence[Point]) -> list[Point]:
    """Those that no other beats: none is both no dearer and at least as good. From the cheapest.

    Transductive ones are left out: what they gain is not there for a single query.
    """
    front: list[Point] = []
    for one in sorted(known, key=lambda point: (point[1], -point[2])):
        if not one[0].system.transductive and (not front or one[2] > front[-1][2]):
            front.append(one)
    return front


def _drawn(known: Sequence[Point], front: Sequence[Point], cost: Cost) -> Markup:
    low, high = min(math.log10(value) for _, value, _ in known), max(math.log10(value) for _, value, _ in known)
    margin = max(0.06 * (high - low), 0.05)
    low, high = low - margin, high + margin
    ticks, bottom, top = _percents(min(rate for _, _, rate in known), max(rate for _, _, rate in known))

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (math.log10(value) - low) / (high - low)

    def y(rate: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (rate - bottom) / (top - bottom)

    parts = [f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="R@1 over {cost.words}">']
    for tick in ticks:
        at = y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{100 * tick:g}</text>')
    for value in _ticks(low, high, cost.base):
        at = x(value)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_HEIGHT - _BOTTOM}" y2="{_HEIGHT - _BOTTOM + 4}"/>'
            f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 17}" '
            f'text-anchor="{"end" if at > _WIDTH - 36 else "middle"}">{cost.tick(value)}</text>'
        )
    if front:
        stairs = [f"{x(front[0][1]):.1f},{y(front[0][2]):.1f}"]
        for (_, _, before), (_, value, rate) in pairwise(front):
            stairs += [f"{x(value):.1f},{y(before):.1f}", f"{x(value):.1f},{y(rate):.1f}"]
        stairs.append(f"{_WIDTH - _RIGHT},{y(front[-1][2]):.1f}")
        parts.append(f'<polyline class="line two-stage" points="{" ".join(stairs)}"/>')
    leading = {row.number for row, _, _ in front}
    order = sorted(known, key=lambda point: (point[0].number not in leading, -point[2]))
    labels = place_labels([(x(value), y(rate), str(row.number)) for row, value, rate in order], above=len(front))
    for (row, value, rate), label in zip(order, labels, strict=True):
        kind = "front" if row.number in leading else "open" if row.system.transductive else "behind"
        about = f"{row.number}: {called(row)}, R@1 {percent(rate)} %, {cost.show(value)}"
        parts.append(f'<g class="point {kind}"><title>{escape(about)}</title>')
        if label is not None and label.led:
            parts.append(f'<line x1="{x(value):.1f}" y1="{y(rate):.1f}" x2="{label.x:.1f}" y2="{label.y:.1f}"/>')
        parts.append(f'<circle cx="{x(value):.1f}" cy="{y(rate):.1f}" r="{_DOT:g}"/>')
        if label is not None:
            parts.append(f'<text x="{label.x:.1f}" y="{label.y + 4:.1f}" text-anchor="middle">{row.number}</text>')
        parts.append("</g>")
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f"{cost.words} (log scale)</text></svg>"
    )
    return Markup("".join(parts))  # safe: numbers and our own words, names escaped


def place_labels(points: Sequence[tuple[float, float, str]], above: int = 0) -> list[Label | None]:
    """A free place for each (x, y, number) near its point: over no other number and no point, else none.

    The first points choose first, and the first `above` of them would stand above a line. Who finds no room is still
    named where the page is pointed at.
    """
    taken: list[Box] = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y, _ in points]
    labels: list[Label | None] = []
    for place, (x, y, text) in enumerate(points):
        eighths = _ABOVE if place < above else _BESIDE
        label = next(
            (
                found
                for ring in _RINGS
                for found in _around(x, y, len(text) * _DIGIT + _GAP, ring, eighths)
                if _inside(found.box) and not any(_overlap(found.box, box) for box in taken)
            ),
            None,
        )
        if label is not None:
            taken.append(label.box)
        labels.append(label)
    return labels


def _around(x: float, y: float, width: float, ring: float, eighths: Sequence[int]) -> Iterator[Label]:
    for eighth in eighths:
        angle = eighth * math.pi / 4
        at, down = x + (ring + width / 4) * math.cos(angle), y - ring * math.sin(angle)
        box = (at - width / 2, down - _LINE / 2, at + width / 2, down + _LINE / 2)
        yield Label(at, down, box, led=ring > _RINGS[0])


def _inside(box: Box) -> bool:
    return box[0] >= _LEFT and box[1] >= 0 and box[2] <= _WIDTH and box[3] <= _HEIGHT - _BOTTOM


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _percents(lowest: float, highest: float) -> tuple[list[float], float, float]:
    """Round ticks of R@1, and the axis' ends."""
    room = max(highest - lowest, 0.01)
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if room / step <= 6)
    bottom, top = math.floor(lowest / step), math.ceil(highest / step)
    if top == bottom:
        top += 1
    return [round(tick * step, 4) for tick in range(bottom, top + 1)], bottom * step, top * step


def _ticks(low: float, high: float, base: int) -> list[float]:
    """Round values between two powers of ten, seven at most; with none between, the ends alone."""
    if base == 2:
        found = [2.0**power for power in range(math.floor(low / _LOG2), math.ceil(high / _LOG2) + 1)]
    else:
        factors = (1,) if high - low > 2.5 else (1, 2, 5)
        found = [factor * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for factor in factors]
    found = [value for value in found if low <= math.log10(value) <= high]
    return found[:: max(1, math.ceil(len(found) / 7))] if len(found) > 1 else [10**low, 10**high]
