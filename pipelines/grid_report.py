"""From what the cells gave to the report of a sweep."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
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


def build_systems(config: GridConfig, cells: Sequence[Cell], queries: Queries) -> SystemsReport:
    """Every cell as a row, measured on the same queries and the same resamples."""
    out = Path(config.out).absolute()
    require_one_world(out, cells)
    found = {cell.name: read_positions(cell_folder(out, cell)) for cell in cells}
    about = {cell.name: _about(out, cell) for cell in cells}
    measures = {name: per_query(position) for name, (position, _) in found.items()}
    ceilings = {cell.name: Measure(_recalled(found[cell.name][0], cell.k)) for cell in cells if cell.k is not None}
    labelled = [ids for ids in queries.relevant if ids]
    labelled_groups = ["\0".join(sorted(ids)) for ids in labelled]
    groups: list[str] | None = labelled_groups
    if len(set(labelled_groups)) == len(labelled_groups):
        groups = None
    options: dict[str, Any] = {"samples": config.report.bootstrap, "seed": config.report.seed, "groups": groups}
    flat = {f"{name}\0{metric}": each for name, of in measures.items() for metric, each in of.items()}
    spread = intervals({**flat, **{f"{name}\0ceiling": each for name, each in ceilings.items()}}, **options)
    baseline = config.baseline or cells[0].name
    # What has read the other test queries is no rival of what has not.
    rivals = [cell.name for cell in cells if not about[cell.name]["transductive"]]
    letters = group_letters({name: measures[name]["R@1"].values for name in rivals}, groups)
    systems = []
    for cell in cells:
        position, note = found[cell.name][0], about[cell.name]
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
        hubs=_hubs(out, cells, queries, {baseline: None, best.name: None}),
        resamples=config.report.bootstrap,
        interval_unit="query" if groups is None else "group",
        files={
            "ranks.parquet": "the rank of the right video of every query, by every system",
            "qrels.trec": "the right answers as TREC qrels",
        },
    )


def write_ranks(out: Path, cells: Sequence[Cell], queries: Queries) -> None:
    """OUT/ranks.parquet and qrels.trec: what mgvr compare pairs queries by, and which of them describe one video."""
    write_qrels(
        out / "qrels.trec", ((name, ids) for name, ids in zip(queries.ids, queries.relevant, strict=True) if ids)
    )
    ids = [name for name, relevant in zip(queries.ids, queries.relevant, strict=True) if relevant]
    tables = [
        pa.table(
            {
                "system": pa.array([cell.name] * len(ids)),
                "direction": pa.array(["text_to_video"] * len(ids)),
                "query": pa.array(ids),
                "rank": ranks(read_positions(cell_folder(out, cell))[0]).mid,
            }
        )
        for cell in cells
    ]
    with placing(out / "ranks.parquet") as partial:
        pq.write_table(pa.concat_tables(tables), partial)


def _about(out: Path, cell: Cell) -> dict[str, Any]:
    note: dict[str, Any] = json.loads((cell_folder(out, cell) / "cell.json").read_text(encoding="utf-8"))
    return note


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
    out: Path, cells: Sequence[Cell], queries: Queries, wanted: Mapping[str, None]
) -> tuple[tuple[str, str, int, int], ...]:
    """Of some systems: videos that come first for many more queries than they are right for."""
    right = Counter(name for names in queries.relevant for name in set(names))
    found: list[tuple[str, str, int, int]] = []
    for cell in cells:
        if cell.name in wanted:
            names, row = np.unique(read_positions(cell_folder(out, cell))[1], return_inverse=True)
            times_right = np.array([right[str(name)] for name in names])
            found += [(cell.name, str(names[video]), *times) for video, *times in hubs(row, times_right)]  # type: ignore[misc]
    return tuple(found)


def require_one_world(out: Path, cells: Sequence[Cell]) -> None:
    """Raise MgvrError where cells of one model were measured on different features: their queries can't be paired."""
    seen: dict[tuple[str, str], tuple[Cell, Any]] = {}
    for cell in cells:
        made = _about(out, cell)["fingerprints"]
        other, before = seen.setdefault((cell.model, cell.codec), (cell, made))
        if before != made:
            raise MgvrError(
                f"{cell.name} and {other.name} were measured on different features ({made} and {before}): the videos "
                f"or the model changed in between. Delete {out / 'cells'} and run the sweep again"
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
