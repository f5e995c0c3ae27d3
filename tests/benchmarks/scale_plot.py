"""Time over queries, a line for each number of videos, on log axes: a straight line of slope 1 is linear."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 340, 56, 120, 16, 46
_COLOURS = ("#4269d0", "#3ca951", "#ff725c", "#a463f2")


@dataclass(frozen=True)
class Point:
    """One run."""

    videos: int
    queries: int
    seconds: float
    gigabytes: float


def draw(points: Sequence[Point]) -> str:
    """An SVG picture of all runs; beside each line its videos, and the most memory that a run of it took."""
    queries = sorted({point.queries for point in points})
    decades = range(
        math.floor(math.log10(min(point.seconds for point in points))),
        math.ceil(math.log10(max(point.seconds for point in points))) + 1,
    )
    return "\n".join(_parts(points, queries, decades))


def _parts(points: Sequence[Point], queries: list[int], decades: range) -> Iterator[str]:
    def x(number: int) -> float:
        span = math.log(queries[-1] / queries[0]) or 1.0
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(number / queries[0]) / span

    def y(seconds: float) -> float:
        share = (math.log10(seconds) - decades[0]) / max(1, decades[-1] - decades[0])
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12" role="img" aria-label="Seconds of a search over queries, for several numbers of videos">'
    )
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    for decade in decades:
        at = y(10.0**decade)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
        yield f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**decade:g} s</text>'
    for number in queries:
        yield f'<text x="{x(number):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{number:,}</text>'
    yield f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">queries</text>'
    for colour, videos in zip(_COLOURS, sorted({point.videos for point in points}), strict=False):
        line = sorted((point for point in points if point.videos == videos), key=lambda point: point.queries)
        path = " ".join(f"{x(point.queries):.1f},{y(point.seconds):.1f}" for point in line)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for point in line:
            yield f'<circle cx="{x(point.queries):.1f}" cy="{y(point.seconds):.1f}" r="3" fill="{colour}"/>'
        at, memory = y(line[-1].seconds), max(point.gigabytes for point in line)
        yield f'<text x="{x(line[-1].queries) + 8:.1f}" y="{at:.1f}" fill="{colour}">{videos:,} videos</text>'
        yield f'<text x="{x(line[-1].queries) + 8:.1f}" y="{at + 14:.1f}" fill="{colour}">{memory:.1f} GB</text>'
    yield "</svg>"
