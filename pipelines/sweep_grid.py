"""Retrieval systems over a grid, on the same queries, as one table with its price.

Reads    a sweep file: `models` with their features, and a `grid` of scorers, k, weights, codecs, indexes, corrections
         and seeds; `procedural`, or corpus, queries and training videos; `expected` figures, if it is to guard them
Writes   OUT/systems.html, .md, .csv, .tex, .json   the table with intervals and costs, Pareto plots, a ranking
         OUT/ranks.parquet                          the rank of the right video of every query, by every system
         OUT/cells/                                 what each system gave
         OUT/qrels.trec                             which videos are right, as TREC qrels
         OUT/features/, heads/, models/, work/ ...  what systems share: one encoding, one stage 1, one head

A system that is done is not done again, and what was killed goes on: run the same command. Where a figure is not as
expected the sweep ends with exit code 1, after everything is written. On several nodes OUT must lie on storage that all
of them share.

  mgvr sweep jobs/sweeps/demo.yaml
  mgvr sweep jobs/sweeps/demo.yaml --out runs/sweep --parallel 2
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from mgvr_core.config import Section
from mgvr_core.datasets.procedural import write_manifests
from mgvr_core.errors import JobError, MgvrError
from mgvr_core.evaluation.systems import SystemsReport
from mgvr_core.evaluation.systems_pages import write_systems
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import hash_file, hash_json
from mgvr_core.model.checkpoint import CONFIG as CHECKPOINT
from mgvr_core.uris import to_local
from pipelines.answering import index_identity
from pipelines.answers import Queries
from pipelines.environment import computing_source, computing_versions
from pipelines.grid import NONE, SHARED, Cell, GridConfig, cell_folder, cells_of
from pipelines.grid_cells import score_cells
from pipelines.grid_inputs import check, corpus_of, prepare, queries_of
from pipelines.grid_report import RATES, build_systems, read_cells, write_ranks
from pipelines.making import make_corpus
from pipelines.progress import progress
from pipelines.runtime import cluster, main, summary

_TABLES = {"codec": "codecs", "index": "indexes", "weights": "weights", "correction": "corrections"}
_LONGEST_NAME = 4096
"""Of a file: a longer text is none."""


def sweep_grid(config: GridConfig) -> SystemsReport:
    """Do what is missing and make the table; raises MgvrError before Ray starts for a grid that is not valid.

    Raises JobError at the end where a cell failed or a figure has drifted; the others are done then, and kept.
    """
    began = time.monotonic()
    out, cells = Path(config.out).absolute(), cells_of(config)
    config.report.protocol()
    check(config, cells)
    digests = digests_of(config, cells)
    waiting = [cell for cell in cells if not is_done(out, cell, digests[cell])]
    if waiting and config.procedural is not None:
        write_manifests(out / "corpus", config.procedural)
    queries = queries_of(config)
    failures: list[str] = []
    if waiting:
        with cluster(config.ray):
            failures = _run(config, waiting, queries, digests)
    if failures:
        raise JobError("\n".join([f"{len(failures)} of {len(cells)} systems failed:", *failures]))
    measured = read_cells(out, cells)
    report = build_systems(config, measured, queries)
    write_ranks(out, measured, queries)
    files = write_systems(report, out)
    rows = {
        "systems": f"{len(cells)}, of which {len(cells) - len(waiting)} were there already"
        + ("" if waiting else ": nothing was left to do"),
        "expected": _expectations(report),
        "time": f"{time.monotonic() - began:.0f} s",
        "report": str(files["systems.html"]),
    }
    print("\n".join([*_table(report), *_verdicts(report), summary("sweep: done", rows)]))
    if report.drifted:
        raise JobError("\n".join(["figures are not as expected:", *_verdicts(report, drifted=True)]))
    return report


def is_done(out: Path, cell: Cell, digest: str) -> bool:
    """Whether a cell has been scored and measured with just these settings and inputs."""
    mark = cell_folder(out, cell) / "cell.json"
    return mark.exists() and json.loads(mark.read_text(encoding="utf-8"))["digest"] == digest


def _run(config: GridConfig, waiting: Sequence[Cell], queries: Queries, digests: dict[Cell, str]) -> list[str]:
    """Score cells, those of a model after what they share; returns what failed."""
    out = Path(config.out).absolute()
    if config.procedural is not None:
        make_corpus(out / "corpus", config.procedural)
    failures: list[str] = []
    for name in dict.fromkeys(cell.model for cell in waiting):
        mine = [cell for cell in waiting if cell.model == name]
        try:
            inputs = prepare(config, name, mine, queries)
        except (MgvrError, RayError) as error:
            failures += [f"{cell.name}: {_last(error)}" for cell in mine]
            continue
        given = ray.put(config), ray.put(inputs), ray.put(queries)
        groups: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in mine:
            groups.setdefault(tuple(getattr(cell, axis) for axis in SHARED), []).append(cell)
        failures += _score(config, out, given, list(groups.values()), digests)
    return failures


def _score(
    config: GridConfig,
    out: Path,
    given: tuple[Any, Any, Any],
    groups: list[list[Cell]],
    digests: dict[Cell, str],
) -> list[str]:
    failures: list[str] = []
    running: dict[Any, list[Cell]] = {}
    queue = list(groups)
    with progress("sweep", sum(map(len, groups)), "systems") as counter:
        while queue or running:
            while queue and len(running) < config.parallel:
                cells = queue.pop(0)
                folders = [str(cell_folder(out, cell)) for cell in cells]
                task = score_cells.remote(*given, cells, [digests[cell] for cell in cells], folders)
                running[task] = cells
            (done,), _ = ray.wait(list(running))
            cells = running.pop(done)
            try:
                ray.get(done)
                counter.add.remote("systems", len(cells))
            except RayError as error:
                failures += [f"{cell.name}: {_last(error)}" for cell in cells]
                counter.add.remote("failed", len(cells))
    return failures


def digests_of(config: GridConfig, cells: Sequence[Cell]) -> dict[Cell, str]:
    """What each cell's figures depend on: settings, inputs and versions, but not where and how it runs.

    Files that a setting names are known by what they hold, feature sets by their snapshot. Of the videos themselves
    `mgvr encode` knows; it is not asked where this says that all is done.
    """
    corpora = [corpus_of(config, split) for split in ("test", "train", "validation")]
    given = [*corpora, config.queries] if config.procedural is None else [config.procedural]
    data = [None if each is None else _contents(each.model_dump(mode="json")) for each in given]
    shared = [data, config.bank, config.bank_seed, computing_versions(), computing_source()]
    models = {name: hash_json([shared, _model(config, name)]) for name in {cell.model for cell in cells}}
    return {cell: hash_json([models[cell.model], *_used(config, cell)]) for cell in cells}


def _model(config: GridConfig, name: str) -> list[Any]:
    choice = config.models[name]
    stores = [choice.features, choice.training_features]
    identities = [None if store is None else index_identity(FeatureStore(store).snapshot()) for store in stores]
    return [_contents(choice.model_dump(mode="json", exclude={"features", "training_features"})), identities]


def _used(config: GridConfig, cell: Cell) -> Iterable[Any]:
    yield [getattr(cell, axis) for axis in (*SHARED, "correction")]
    for axis, table in _TABLES.items():
        name = getattr(cell, axis)
        entry: Section | None = None if name == NONE else getattr(config, table)[name]
        yield None if entry is None else entry.model_dump(mode="json")
    yield _contents([config.heads, config.head.get(cell.scorer)]) if cell.learned else None


def _contents(value: Any) -> Any:
    """A setting with the hash of every file, or of all files in every folder of a checkpoint, that it names."""
    if isinstance(value, dict):
        return {key: _contents(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_contents(each) for each in value]
    if not isinstance(value, str) or len(value) > _LONGEST_NAME:
        return value
    path = Path(to_local(value))
    if path.is_file():
        return [value, hash_file(path)]
    if (path / CHECKPOINT).is_file():
        return [value, [hash_file(file) for file in sorted(path.iterdir()) if file.is_file()]]
    return value


def _last(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if isinstance(error, RayError) else str(error)


def _expectations(report: SystemsReport) -> str:
    stated = sum(len(system.expected) for system in report.systems)
    if not stated:
        return "nothing was stated"
    return f"{stated - len(report.drifted)} of {stated} figures OK" + (
        f", {len(report.drifted)} FAIL" if report.drifted else ""
    )


def _table(report: SystemsReport) -> Iterable[str]:
    """The table in short, for a terminal."""
    shown = ("R@1", "R@5", "R@10")
    width = max(len(system.name) for system in report.systems)
    yield f"{'system':<{width}}  " + "  ".join(f"{metric:>5}" for metric in shown) + "  95 % of R@1   group"
    for system in report.systems:
        figures = "  ".join(f"{100 * system.figures[metric].value:5.1f}" for metric in shown)
        first = system.figures["R@1"]
        group = "transductive" if system.transductive else system.groups
        yield f"{system.name:<{width}}  {figures}  {100 * first.low:5.1f}–{100 * first.high:<5.1f}  {group}"


def _verdicts(report: SystemsReport, drifted: bool = False) -> Iterable[str]:
    """A line for every figure that was expected, or for those that have drifted."""
    for system in report.systems:
        for each in system.expected:
            if each.ok and drifted:
                continue
            unit = 100 if each.metric.startswith(RATES) else 1
            found, value, tolerance = (unit * number for number in (each.found, each.value, each.tolerance))
            verdict = "OK  " if each.ok else "FAIL"
            yield f"  {verdict}  {system.name}: {each.metric} is {found:.4g}, expected {value:g} within {tolerance:g}"


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code."""
    return main(GridConfig, sweep_grid, "mgvr sweep", __doc__, argv)


if __name__ == "__main__":
    sys.exit(run())
