"""From what the cells gave to the report of a sweep."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.bootstrap import Interval, intervals, paired_gains
from mgvr_core.evaluation.hubs import hubs
from mgvr_core.evaluation.metrics import Measure, Positions, per_query, ranks, summarise
from mgvr_core.evaluation.report import Manifest, Ties
from mgvr_core.evaluation.significance import group_letters
from mgvr_core.evaluation.systems import Expectation, System, SystemsReport
from mgvr_core.evaluation.trec import write_qrels
from mgvr_core.files import placing
from pipelines.answers import Queries
from pipelines.environment import command_line, hardware, versions
from pipelines.grid import Cell, GridConfig, cell_folder
from pipelines.grid_cells import read_positions

RATES = ("R@", "MRR", "nDCG")
"""What the names of metrics begin with that are shares of 1: stated and shown in percent."""


@dataclass(frozen=True)
class Measured:
    """What a cell gave."""

    cell: Cell
    positions: Positions
    first: list[str]
    """(Q,) the id of the video that came first for each labelled query."""
    about: dict[str, Any]
    """What cell.json says of how and of what it was measured."""


def read_cells(out: Path, cells: Sequence[Cell]) -> list[Measured]:
    """What is kept of cells that are done; raises MgvrError where they were measured on different features."""
    found = []
    for cell in cells:
        folder = cell_folder(out, cell)
        about = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
        found.append(Measured(cell, *read_positions(folder), about))
    _require_one_world(out, found)
    return found


def build_systems(config: GridConfig, measured: Sequence[Measured], queries: Queries) -> SystemsReport:
    """Every cell as a row, measured on the same queries and the same resamples."""
    cells = [each.cell for each in measured]
    found = {each.cell.name: each.positions for each in measured}
    about = {each.cell.name: each.about for each in measured}
    measures = {name: per_query(positions) for name, positions in found.items()}
    ceilings = {cell.name: Measure(_recalled(found[cell.name], cell.k)) for cell in cells if cell.k is not None}
    labelled = [ids for ids in queries.relevant if ids]
    by_video = ["\0".join(sorted(ids)) for ids in labelled]
    groups = by_video if len(set(by_video)) < len(by_video) else None
    options: dict[str, Any] = {"samples": config.report.bootstrap, "seed": config.report.seed, "groups": groups}
    flat = {f"{name}\0{metric}": each for name, of in measures.items() for metric, each in of.items()}
    spread = intervals({**flat, **{f"{name}\0ceiling": each for name, each in ceilings.items()}}, **options)
    baseline = config.baseline or cells[0].name
    # What has read the other test queries is no rival of what has not.
    rivals = [cell.name for cell in cells if not about[cell.name]["transductive"]]
    letters = group_letters({name: measures[name]["R@1"].values for name in rivals}, groups)
    systems = []
    for cell in cells:
        position, note = found[cell.name], about[cell.name]
        summary = summarise(position)
        figures = {metric: spread[f"{cell.name}\0{metric}"] for metric in measures[cell.name]}
        systems.append(
            System(
                name=cell.name,
                settings=cell.settings,
                queries=position.num_queries,
                pool=position.pool,
                figures=figures,
                gain={} if cell.name == baseline else paired_gains(measures[cell.name], measures[baseline], **options),
                groups=letters.get(cell.name, ""),
                recall_at_k=spread[f"{cell.name}\0ceiling"] if cell.k is not None else None,
                macs=note["macs"],
                seconds=note["seconds"],
                bytes=note["bytes"],
                parameters=note["parameters"],
                transductive=note["transductive"],
                ties=Ties(summary.tied_queries, summary.optimistic, summary.pessimistic)
                if summary.tied_queries
                else None,
                unanswerable=summary.unanswerable,
                expected=_expected(config.expected.get(cell.name, {}), figures),
                note=note["label"],
            )
        )
    best = max(systems, key=lambda system: (not system.transductive, system.figures["R@1"].value))
    return SystemsReport(
        title=config.title,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        systems=tuple(systems),
        manifest=_manifest(config, about),
        protocol=_protocol(config, systems[0]),
        baseline=baseline,
        warnings=(
            *config.report.foreign(systems[0].queries, systems[0].pool, *_read(about)),
            *_warnings(cells, about),
        ),
        hubs=_hubs(measured, queries, {baseline, best.name}),
        resamples=config.report.bootstrap,
        interval_unit="query" if groups is None else "group",
        files={
            "ranks.parquet": "the rank of the right video of every query, by every system",
            "qrels.trec": "the right answers as TREC qrels",
        },
    )


def write_ranks(out: Path, measured: Sequence[Measured], queries: Queries) -> None:
    """OUT/ranks.parquet and qrels.trec: what mgvr compare pairs queries by, and which of them describe one video."""
    right = [(name, ids) for name, ids in zip(queries.ids, queries.relevant, strict=True) if ids]
    write_qrels(out / "qrels.trec", right)
    tables = [
        pa.table(
            {
                "system": [each.cell.name] * len(right),
                "direction": ["text_to_video"] * len(right),
                "query": [name for name, _ in right],
                "rank": ranks(each.positions).mid,
            }
        )
        for each in measured
    ]
    with placing(out / "ranks.parquet") as partial:
        pq.write_table(pa.concat_tables(tables), partial)


def _recalled(positions: Positions, k: int) -> NDArray[np.float64]:
    """(Q,) 1 where a right answer is among the k candidates: none of them stands below k others."""
    listed = np.zeros(positions.num_queries)
    listed[positions.query[positions.better < k]] = 1.0
    return listed


def _expected(stated: Mapping[str, tuple[float, float]], figures: Mapping[str, Interval]) -> tuple[Expectation, ...]:
    found = []
    for metric, (value, tolerance) in stated.items():
        unit = 100 if metric.startswith(RATES) else 1
        found.append(Expectation(metric, value / unit, tolerance / unit, figures[metric].value))
    return tuple(found)


def _hubs(
    measured: Sequence[Measured], queries: Queries, wanted: Collection[str]
) -> tuple[tuple[str, str, int, int], ...]:
    """Of some systems: videos that come first for many more queries than they are right for."""
    right = Counter(name for names in queries.relevant for name in set(names))
    found: list[tuple[str, str, int, int]] = []
    for each in measured:
        if each.cell.name in wanted:
            names, row = np.unique(each.first, return_inverse=True)
            times_right = np.array([right[str(name)] for name in names])
            for video, first, times in hubs(row, times_right):
                found.append((each.cell.name, str(names[video]), first, times))
    return tuple(found)


def _require_one_world(out: Path, measured: Sequence[Measured]) -> None:
    """Raise MgvrError where cells of one model were measured on different features: their queries can't be paired."""
    seen: dict[tuple[str, str], Measured] = {}
    for each in measured:
        other = seen.setdefault((each.cell.model, each.cell.codec), each)
        made, before = each.about["fingerprints"], other.about["fingerprints"]
        if made != before:
            raise MgvrError(
                f"{each.cell.name} and {other.cell.name} were measured on different features ({made} and {before}): "
                f"the videos or the model changed in between. Delete {out / 'cells'} and run the sweep again"
            )


def _manifest(config: GridConfig, about: Mapping[str, dict[str, Any]]) -> Manifest:
    fingerprints: dict[str, str] = {}
    for note in about.values():
        fingerprints |= note["fingerprints"]
    return Manifest(
        command=command_line(),
        configuration=config.model_dump(mode="json"),
        fingerprints=fingerprints,
        versions=versions(),
        hardware=hardware(),
        seed=config.report.seed,
    )


def _protocol(config: GridConfig, system: System) -> dict[str, str]:
    lost = f"{system.unanswerable} of {system.queries}, each a miss" if system.unanswerable else "none"
    return {
        **config.report.protocol(),
        "A hit at K": "a query any of whose right videos is among the first K",
        "Rank": "1, the better videos, and half of those that tie with the right one",
        "Queries whose right videos are not in the pool": lost,
    }


def _read(about: Mapping[str, dict[str, Any]]) -> tuple[set[int], set[int]]:
    """Text tokens and frames that the systems read."""
    return {note["tokens"] for note in about.values()}, {note["frames"] for note in about.values()}


def _warnings(cells: Sequence[Cell], about: Mapping[str, dict[str, Any]]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for cell in cells:
        found |= dict.fromkeys(f"{cell.model}: {warning}" for warning in about[cell.name]["warnings"])
    here = {"versions": versions(), "hardware": hardware()}
    earlier = [cell.name for cell in cells if any(about[cell.name][key] != value for key, value in here.items())]
    if earlier:
        made_by = sorted({about[name]["versions"].get("commit", "unknown") for name in earlier})
        found[
            f"{len(earlier)} of {len(cells)} systems were measured by an earlier run, with other code, versions or "
            f"hardware than this page's manifest says (commit {', '.join(made_by)}): {', '.join(earlier)}"
        ] = None
    return tuple(found)
