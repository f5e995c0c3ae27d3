"""The retrieval report's metric tables as CSV (a figure a row, every digit) and as LaTeX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mgvr_core.evaluation.bootstrap import Interval
from mgvr_core.evaluation.report import Direction, Directions, Report
from mgvr_core.evaluation.tables import Value, spread, tex, to_csv, to_tex
from mgvr_core.evaluation.wording import Cell, cell, count, directions, intervals_note

_SHOWN = ("R@1", "R@5", "R@10", "MdR", "MRR")
_HEADER = ("direction", "list", "metric", "value", "low", "high", "p", "queries", "pool", "k")


def render_csv(metrics: Directions) -> str:
    """Every figure of both directions. Rates are fractions; p: of the rows that are paired gains."""
    rows: list[list[Value]] = []
    for key, _, direction in directions(metrics):
        run = (direction.queries, direction.pool, direction.k)
        for name, figures in _lists(direction):
            rows += [[key, name, metric, *spread(found), None, *run] for metric, found in figures.items()]
        rows += [
            [key, "two-stage minus coarse", metric, *spread(gain), gain.p_value, *run]
            for metric, gain in direction.gain.items()
        ]
        rows.append([key, "coarse", f"R@{direction.k} (ceiling)", *spread(direction.recall_at_k), None, *run])
    return to_csv(_HEADER, rows)


def render_tex(report: Report, metrics: Directions) -> str:
    """A booktabs table for each direction, and the protocol as a comment above."""
    parts = ["".join(f"% {tex(name)}: {tex(value)}\n" for name, value in report.protocol.items())]
    parts[0] += "% needs the package booktabs\n"
    for _, title, direction in directions(metrics):
        rows = [
            [Cell(name), *(cell(metric, figures[metric]) for metric in _SHOWN)] for name, figures in _lists(direction)
        ]
        caption = (
            f"{report.title}: {title.lower()}, {count(direction.queries)} queries, pool of {count(direction.pool)}, "
            f"{count(direction.k)} candidates reranked. {intervals_note(direction)}"
        )
        parts.append(to_tex(["List", *_SHOWN], rows, caption))
    return "\n".join(parts)


def _lists(direction: Direction) -> Iterator[tuple[str, Mapping[str, Interval]]]:
    yield "coarse", direction.coarse
    yield "two-stage", direction.two_stage
    for name, figures in direction.scores.items():
        yield f"score {name}", figures
    for label, figures in direction.corrected.items():
        yield f"corrected: {label}", figures
