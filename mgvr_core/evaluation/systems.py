"""Systems side by side on the same queries: what `systems.json` holds, of an evaluation, a sweep or a comparison.

A system is a way to answer the queries: a row of a table. Rates are fractions from 0 to 1; what was not measured is
None or empty. Keys are only ever added under one `schema` number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from pydantic import TypeAdapter

from mgvr_core.evaluation.bootstrap import Gain, Interval
from mgvr_core.evaluation.pages import from_json, to_json
from mgvr_core.evaluation.report import DirectionKey, Manifest, StageTime, Ties

SCHEMA = 1
_ROUNDING = 1e-9
"""48.1 - 48.0 is a little more than 0.1."""


@dataclass(frozen=True)
class Expectation:
    """A figure that was stated beforehand: OK where what was found lies within the tolerance."""

    metric: str
    value: float
    tolerance: float
    found: float

    @property
    def ok(self) -> bool:
        """Whether the figure has not drifted."""
        return abs(self.found - self.value) <= self.tolerance + _ROUNDING


@dataclass(frozen=True)
class System:
    """One row.

    settings: what tells it from the others, as shown: model, scorer, k, codec, index, correction, seed.
    figures: R@1, R@5, R@10, MdR, MnR, MRR, nDCG@10, with intervals. gain: over the baseline, on the same queries.
    groups: letters; systems that share one are not told apart by R@1 (docs/benchmarks.md). recall_at_k: of stage 1,
    where k candidates are reranked. macs: multiply-adds of scoring a query. seconds: measured, of scoring 1,000
    queries on one thread. bytes: read of a video. parameters: of the scorer's own. compatible: what the field's usual
    script would print. transductive: it has read the other test queries. expected: see `Expectation`.
    """

    name: str
    settings: Mapping[str, str]
    queries: int
    pool: int
    figures: Mapping[str, Interval]
    direction: DirectionKey = "text_to_video"
    gain: Mapping[str, Gain] = field(default_factory=dict)
    groups: str = ""
    recall_at_k: Interval | None = None
    macs: int | None = None
    seconds: float | None = None
    bytes: int | None = None
    parameters: int = 0
    compatible: Mapping[str, float] = field(default_factory=dict)
    transductive: bool = False
    ties: Ties | None = None
    unanswerable: int = 0
    expected: tuple[Expectation, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class SystemsReport:
    """A table of systems. protocol: name -> value, as shown. created: ISO 8601. baseline: the row that gains are over.

    hubs: videos that come first for many more queries than they are right for: (system, video, times first, times
    right). stages: where the time of the run went.
    """

    title: str
    created: str
    systems: tuple[System, ...]
    manifest: Manifest
    protocol: Mapping[str, str] = field(default_factory=dict)
    baseline: str = ""
    summary: str = ""
    warnings: tuple[str, ...] = ()
    hubs: tuple[tuple[str, str, int, int], ...] = ()
    level: float = 0.95
    resamples: int = 2000
    interval_unit: Literal["query", "group"] = "query"
    files: Mapping[str, str] = field(default_factory=dict)
    stages: tuple[StageTime, ...] = ()
    schema: int = SCHEMA

    @property
    def drifted(self) -> list[tuple[System, Expectation]]:
        """The figures that are not as expected."""
        return [(system, each) for system in self.systems for each in system.expected if not each.ok]

    def to_json(self) -> str:
        """The document as JSON text. Raises MgvrError where a number is NaN or infinite, naming its key."""
        return to_json(asdict(self), "systems report")

    @staticmethod
    def from_json(text: str) -> SystemsReport:
        """The report of a `systems.json`'s text. Raises MgvrError where it isn't one, or is of a newer schema."""
        return from_json(text, _ADAPTER, "a report of systems", SCHEMA)


_ADAPTER = TypeAdapter(SystemsReport)
