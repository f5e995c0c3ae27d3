"""Put two runs side by side: paired differences on the queries they share, what they cost, and all that differs.

Reads    A and B, each a folder of mgvr retrieve (report.json, run.trec, qrels.trec), of mgvr evaluate or of mgvr sweep
         (systems.json, ranks.parquet); or such a .json file itself, with the others beside it
Writes   to the terminal; with --out also OUT/compare.{html,md,json}

Queries are paired by their ids. Systems of one name are paired; where no name is common, the only system of one side
with every one of the other. A retrieve run's lists end at its k: there is no difference for what lies below, and of
tied answers the one that the list has first is first. Runs over different pools are compared, and the page says that
their figures can't be.

  mgvr compare runs/monday runs/tuesday
  mgvr compare runs/sweep runs/answers/report.json --out runs/difference
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.report import Direction, Report
from mgvr_core.evaluation.side_by_side import Comparison, Key, Placed, Side, side_by_side
from mgvr_core.evaluation.side_pages import write_comparison
from mgvr_core.evaluation.side_wording import on_terminal
from mgvr_core.evaluation.systems import System, SystemsReport
from mgvr_core.evaluation.trec import read_qrels, read_run
from mgvr_core.evaluation.wording import directions

_RANKS = {"system", "direction", "query", "rank"}
_TWO_STAGE = "two-stage"


def compare(a: Path, b: Path) -> Comparison:
    """Compare two runs; raises MgvrError where one can't be read, or nothing of them can be paired."""
    return side_by_side(read_side("A", a), read_side("B", b), datetime.now(UTC).isoformat(timespec="seconds"))


def read_side(name: str, path: Path) -> Side:
    """A run of retrieve, evaluate or sweep, from its folder or its .json file."""
    file = _document(path)
    try:
        text = file.read_text(encoding="utf-8")
        document = json.loads(text)
    except OSError as error:
        raise MgvrError(f"cannot read {file}: {error.strerror or error}") from None
    except ValueError as error:
        raise MgvrError(f"{file} is no JSON document: {error}") from None
    try:
        if isinstance(document, dict) and "systems" in document:
            return _of_systems(name, path, file, SystemsReport.from_json(text))
        return _of_retrieval(name, path, file, Report.from_json(text))
    except MgvrError as error:
        raise MgvrError(f"{file}: {error}") from None


def _document(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = [path / name for name in ("report.json", "systems.json") if (path / name).is_file()]
    if not found:
        raise MgvrError(
            f"{path} has neither report.json (of mgvr retrieve) nor systems.json (of mgvr evaluate and mgvr sweep): "
            "name a run's folder"
        )
    if len(found) > 1:
        raise MgvrError(f"{path} has both report.json and systems.json: name the one that is meant")
    return found[0]


def _of_systems(name: str, path: Path, file: Path, report: SystemsReport) -> Side:
    pools: dict[Key, int] = {(system.direction, system.name): system.pool for system in report.systems}
    return Side(
        name,
        str(path),
        report.title,
        report.created,
        report.systems,
        report.manifest,
        report.protocol,
        _ranked(file.with_name("ranks.parquet"), pools),
        _right(file),
        report.interval_unit == "group",
        sum(stage.seconds for stage in report.stages) if report.stages else None,
    )


def _ranked(file: Path, pools: Mapping[Key, int]) -> dict[Key, Placed]:
    """The ranks of every system; one behind the pool's last is a right answer that is not in the pool."""
    if not file.is_file():
        return {}
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise MgvrError(f"{file.name} beside it can't be read: {error}") from None
    if lacking := _RANKS - set(table.column_names):
        raise MgvrError(f"{file.name} beside it lacks the columns {', '.join(sorted(lacking))}")
    found: dict[Key, dict[str, float]] = {}
    columns = (table[column].to_pylist() for column in ("direction", "system", "query", "rank"))
    for direction, system, query, rank in zip(*columns, strict=True):
        if (key := (direction, system)) in pools:
            found.setdefault(key, {})[query] = rank if rank <= pools[key] else math.inf
    return {key: Placed(rank, pools[key], whole=True) for key, rank in found.items()}


def _of_retrieval(name: str, path: Path, file: Path, report: Report) -> Side:
    if report.metrics is None:
        raise MgvrError("a plain search, whose queries have no right answers: there is no figure to compare")
    right = _right(file)
    systems = [
        system
        for key, _, direction in directions(report.metrics)
        for system in _stages(report, "text_to_video" if key == "text_to_video" else "video_to_text", direction)
    ]
    return Side(
        name,
        str(path),
        report.title,
        report.created,
        tuple(systems),
        report.manifest,
        report.protocol,
        _listed(file.with_name("run.trec"), right, report.pool),
        right,
        report.metrics.text_to_video.interval_unit == "group",
        sum(stage.seconds for stage in report.stages) if report.stages else None,
    )


def _stages(
    report: Report, direction: Literal["text_to_video", "video_to_text"], found: Direction
) -> tuple[System, System]:
    macs, stored = (report.macs_per_query, report.stored) if direction == "text_to_video" else (None, None)
    coarse = System(
        "coarse",
        {},
        found.queries,
        found.pool,
        found.coarse,
        direction,
        macs=macs.coarse if macs else None,
        bytes=stored.coarse if stored else None,
    )
    fine = System(
        _TWO_STAGE,
        {"k": str(found.k)},
        found.queries,
        found.pool,
        found.two_stage,
        direction,
        macs=macs.two_stage if macs else None,
        bytes=stored.coarse + stored.fine if stored else None,
    )
    return coarse, fine


def _listed(run: Path, right: Mapping[str, frozenset[str]], pool: int) -> dict[Key, Placed]:
    """Where the right answers stand in the final lists, which end at the run's k."""
    if not run.is_file() or not right:
        return {}
    lists = read_run(run)
    rank: dict[str, float] = {}
    for query, hits in lists.items():
        if query in right:
            places = (place for place, (video, _) in enumerate(hits, start=1) if video in right[query])
            rank[query] = next(places, math.inf)
    depth = min((len(hits) for hits in lists.values()), default=0)
    return {("text_to_video", _TWO_STAGE): Placed(rank, depth, whole=depth >= pool)}


def _right(file: Path) -> dict[str, frozenset[str]]:
    qrels = file.with_name("qrels.trec")
    if not qrels.is_file():
        return {}
    return {query: frozenset(videos) for query, videos in read_qrels(qrels).items() if videos}


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code: 0 compared, 2 the input was refused."""
    parser = argparse.ArgumentParser(
        prog="mgvr compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="A", type=Path, help="a run's folder, or its report.json or systems.json")
    parser.add_argument("b", metavar="B", type=Path, help="the run to set beside it")
    parser.add_argument("--out", type=Path, help="folder to write compare.html, compare.md and compare.json to")
    options = parser.parse_args(argv)
    try:
        comparison = compare(options.a, options.b)
        print(on_terminal(comparison))
        if options.out is not None:
            print(f"\n{write_comparison(comparison, options.out)['compare.html']}")
    except MgvrError as error:
        print(f"mgvr compare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run())
