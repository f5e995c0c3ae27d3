"""What an evaluation leaves: ranks and TREC files beside its pages, and the table that the terminal shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mgvr_core.evaluation.compatible import LABEL, Printed
from mgvr_core.evaluation.matrix import Matrix, best_lists
from mgvr_core.evaluation.metrics import ranks
from mgvr_core.evaluation.systems import System, SystemsReport
from mgvr_core.evaluation.trec import write_qrels, write_run
from mgvr_core.evaluation.truth import Truth
from mgvr_core.evaluation.wording import TITLES, cell, count, figure
from mgvr_core.files import placing
from pipelines.evaluating import Direction, Ranked
from pipelines.judged import Judged
from pipelines.runtime import summary

_RANKS = pa.schema(
    [
        pa.field("system", pa.string(), nullable=False),
        pa.field("direction", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),  # the id of what asks: of a video in the other direction
        pa.field("rank", pa.float64(), nullable=False),  # from 1, ties counted as halves; pool + 1 for a miss
    ]
)
_SHOWN = ("R@1", "R@5", "R@10", "MdR", "MnR")


def write_ranks(rows: Sequence[Ranked], path: Path) -> None:
    """The rank of everything that asks, a row group a system."""
    with placing(path) as partial, pq.ParquetWriter(partial, _RANKS) as writer:
        for row in rows:
            asking = len(row.asking)
            columns = [[row.name] * asking, [row.direction] * asking, list(row.asking), ranks(row.positions).mid]
            writer.write_table(pa.table(columns, schema=_RANKS))


def write_trec(scores: Matrix, truth: Truth, top: int, folder: Path) -> None:
    """The `top` best videos of each query as run.trec, ties in the order of the columns; and qrels.trec."""
    lists = (
        (query, [truth.videos[column] for column in columns])
        for query, columns in zip(truth.queries, best_lists(scores, top), strict=True)
    )
    write_run(folder / "run.trec", lists, tag="mgvr-raw")
    write_qrels(folder / "qrels.trec", zip(truth.queries, truth.relevant, strict=True))


def shown(report: SystemsReport, page: Path) -> str:
    """The report for the terminal: every row with what the usual scripts print of it, the protocol, the warnings."""
    width = max(len(system.name) for system in report.systems) + 2
    width = max(width, len(LABEL) + 4, len("ties against the right answer") + 4)
    lines = []
    for direction, title in TITLES.items():
        systems = [system for system in report.systems if system.direction == direction]
        if systems:
            lines.append(f"{_line(width, title, _SHOWN)}   {100 * report.level:g} % interval of R@1, pool")
        for system in systems:
            lines.extend(_system(width, system))
    first = report.systems[0]
    sizes = {"pool": f"{count(first.pool)} videos", "queries": count(first.queries)}
    rows = {**sizes, **report.protocol, "warnings": str(len(report.warnings) or "none"), "report": str(page)}
    return "\n".join([*lines, *(f"warning: {text}" for text in report.warnings), summary("evaluate: done", rows)])


def _system(width: int, system: System) -> Iterator[str]:
    values = [figure(name, system.figures[name].value) for name in _SHOWN]
    pool = f"{count(system.pool)} {system.settings['ranked']}"
    yield f"{_line(width, f'  {system.name}', values)}   {cell('R@1', system.figures['R@1']).interval}, {pool}"
    if system.ties is not None:
        for name, bound in (("against", system.ties.pessimistic), ("for", system.ties.optimistic)):
            values = [figure(key, bound[key]) for key in _SHOWN if key in bound]
            yield _line(width, f"    ties {name} the right answer", values)
    if system.compatible:
        yield _line(width, f"    {LABEL}", [figure(name, system.compatible[name]) for name in _SHOWN])


def shown_as_printed(found: Mapping[Direction, Printed], judged: Judged) -> str:
    """What the usual scripts print, by itself."""
    width = len(LABEL) + 2
    lines = [_line(width, LABEL.capitalize(), _SHOWN)]
    for direction, printed in found.items():
        asking = len(judged.truth.queries if direction == "text_to_video" else judged.truth.asking)
        values = [figure(name, printed.values[name]) for name in _SHOWN]
        ranked = f"{count(printed.ranks)} ranks of {count(asking)} queries"
        lines.append(f"{_line(width, f'  {TITLES[direction]}', values)}   {ranked}")
    sizes = {"pool": f"{count(len(judged.truth.videos))} videos", "queries": count(len(judged.truth.queries))}
    return "\n".join([*lines, summary("evaluate: done, and nothing written", {**sizes, **judged.protocol})])


def _line(width: int, name: str, values: Sequence[str]) -> str:
    return f"{name:<{width}}" + "".join(f"{value:>8}" for value in values)
