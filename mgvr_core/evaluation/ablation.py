"""A table of trainings that differ in one thing each: means over seeds, with intervals over the test videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mgvr_core.evaluation.bootstrap import Gain, Interval, intervals, paired_gain
from mgvr_core.evaluation.metrics import Measure

Ranks = Mapping[str, NDArray[np.float64]]
"""Of one training: score or system -> (Q,) rank of the right video, from 1."""


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    name: str
    seeds: int
    figures: dict[str, Interval]
    """`R@K system`: the mean over seeds, from 0 to 1, and an interval over videos (not over seeds)."""
    by_seed: tuple[float, ...]
    """R@1 of the whole system for each seed."""
    gain: Gain | None
    """Of R@1 of the whole system over the row that it is compared with, on the same queries; None for the first."""
    against: str
    """The name of that row."""
    agreed: bool
    """Whether the gain has the same sign on every seed."""


def tabulate(
    rows: Mapping[str, Sequence[Ranks]], videos: Sequence[str], against: Mapping[str, str], whole: str = "fused"
) -> list[Line]:
    """rows: name -> the ranks of each seed; videos (Q,): the right video of each query; against: row -> row.

    A query's hit is its mean over the seeds, so that the interval says how far the figure would move with other videos.
    How far it moves with other seeds is in `by_seed`.
    """
    lines = []
    for name, seeds in rows.items():
        measures = {
            f"R@{k} {system}": Measure(_hits(seeds, system, k))
            for system in seeds[0]
            for k in ((1, 10) if system == whole else (1,))
        }
        other = against.get(name)
        lines.append(
            Line(
                name=name,
                seeds=len(seeds),
                figures=intervals(measures, groups=videos),
                by_seed=tuple(float((ranks[whole] <= 1).mean()) for ranks in seeds),
                gain=None
                if other is None
                else paired_gain(_hits(seeds, whole, 1), _hits(rows[other], whole, 1), groups=videos),
                against=other or "",
                agreed=other is not None and _agreed(seeds, rows[other], whole),
            )
        )
    return lines


def markdown(lines: Sequence[Line], systems: Sequence[str], whole: str = "fused") -> str:
    """The table: R@1 of each score and of the whole system in percent, with 95 % intervals, and the paired gain.

    A gain is bold where its interval excludes 0 and every seed has it.
    """
    heads = ["training", *(f"R@1 {system}" for system in systems), f"R@1 {whole}", f"R@10 {whole}", "gain of R@1"]
    body = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for line in lines:
        cells = [_figure(line.figures.get(f"R@1 {system}")) for system in systems]
        seeds = ", ".join(f"{100 * value:.1f}" for value in line.by_seed)
        fused = f"{_figure(line.figures[f'R@1 {whole}'], interval=True)} ({seeds})"
        body.append([line.name, *cells, fused, _figure(line.figures[f"R@10 {whole}"]), _gain(line)])
    return "\n".join("| " + " | ".join(row) + " |" for row in body) + "\n"


def _agreed(seeds: Sequence[Ranks], others: Sequence[Ranks], whole: str) -> bool:
    differences = [
        (mine[whole] <= 1).mean() - (theirs[whole] <= 1).mean() for mine, theirs in zip(seeds, others, strict=False)
    ]
    return all(difference > 0 for difference in differences) or all(difference < 0 for difference in differences)


def _hits(seeds: Sequence[Ranks], system: str, k: int) -> NDArray[np.float64]:
    hits: NDArray[np.float64] = np.mean([ranks[system] <= k for ranks in seeds], axis=0)
    return hits


def _figure(figure: Interval | None, interval: bool = False) -> str:
    if figure is None:
        return "–"
    bounds = f" [{100 * figure.low:.1f}, {100 * figure.high:.1f}]" if interval else ""
    return f"{100 * figure.value:.1f}{bounds}"


def _gain(line: Line) -> str:
    if line.gain is None:
        return "–"
    gain = line.gain
    bold = "**" if gain.excludes_zero and line.agreed else ""
    return f"{bold}{100 * gain.value:+.1f}{bold} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}] over {line.against}"
