"""Plots as hand-made SVG: text stays text, colours follow the page's light or dark scheme by its CSS classes."""

from __future__ import annotations

import math

from markupsafe import Markup

from mgvr_core.evaluation.report import Direction
from mgvr_core.evaluation.wording import percent

_WIDTH, _HEIGHT = 440, 290
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 10, 12, 40


def recall_curve(direction: Direction) -> Markup:
    """R@K over K (log axis) of coarse and two-stage, and the share that stage 1 lets through as a dashed line.

    The two lines meet at k: reordering k candidates cannot change R@k.
    """
    curve = direction.curve
    last = max(curve.k[-1], 2)
    highest = max(*curve.coarse, *curve.two_stage, direction.recall_at_k.value)
    step = 0.1 if highest <= 0.5 else 0.2
    top = min(1.0, math.ceil(highest / step - 1e-9) * step) or step

    def x(k: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(k) / math.log(last)

    def y(share: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share / top

    def line(kind: str, values: tuple[float, ...]) -> str:
        points = " ".join(f"{x(k):.1f},{y(value):.1f}" for k, value in zip(curve.k, values, strict=True))
        return f'<polyline class="line {kind}" points="{points}"/>'

    limit = y(direction.recall_at_k.value)
    parts = [
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="R@K over K, coarse and two-stage">'
    ]
    for tick in range(round(top / step) + 1):
        at = y(tick * step)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{100 * tick * step:.0f}</text>')
    for k in _ticks(last):
        parts.append(f'<text x="{x(k):.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{k}</text>')
    parts.append(
        f'<line class="ceiling" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{limit:.1f}" y2="{limit:.1f}"/>'
        f'<text x="{_LEFT + 4}" y="{limit - 5 if limit > _TOP + 14 else limit + 14:.1f}">'
        f"stage-1 ceiling {percent(direction.recall_at_k.value)}</text>"
    )
    parts.append(line("coarse", curve.coarse))
    parts.append(line("two-stage", curve.two_stage))
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 5}" text-anchor="middle">'
        "K: places looked at (log scale)</text></svg>"
    )
    return Markup("".join(parts))  # safe: numbers and our own words only


def _ticks(last: int) -> list[int]:
    """1, 2, 5, 10, 20 … and the last K, without one that would touch it."""
    series = [factor * 10**power for power in range(8) for factor in (1, 2, 5)]
    return [*(tick for tick in series if tick * 1.3 < last), last]
