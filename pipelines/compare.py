"""Put two runs side by side: paired differences on the queries they share, what they cost, and all that differs.

Reads    A and B, each a folder of mgvr retrieve (report.json, run.trec, qrels.trec), of mgvr evaluate or of mgvr sweep
         (systems.json, ranks.parquet); or such a .json file itself, with the others beside it
Writes   to the terminal; with --out also OUT/compare.{html,md,json}

Queries are paired by their ids. Systems of one name are paired, and a retrieve run's two-stage search with the one row
of a sweep that is eercf on as many candidates and nothing else; where there is no such pair, the only system of one
side with every one of the other. --pair names others. A retrieve run's lists end at its k: there is no difference for
what lies below, and of tied answers the one that the list has first is first. Runs over different pools are compared,
and the page says that their figures can't be.

  mgvr compare runs/monday runs/tuesday
  mgvr compare runs/sweep runs/answers/report.json --out runs/difference
  mgvr compare runs/answers runs/sweep --pair "two-stage=max_sim on 50" --pair coarse=mean_pool
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.report import Direction, DirectionKey, Report
from mgvr_core.evaluation.side_by_side import Comparison, Key, Placed, Side, side_by_side
from mgvr_core.evaluation.side_pages import write_comparison
from mgvr_core.evaluation.side_wording import on_terminal
from mgvr_core.evaluation.systems import System, SystemsReport
from mgvr_core.evaluation.trec import read_qrels, read_run
from mgvr_core.evaluation.wording import TITLES, directions

_RANKS = {"system", "direction", "query", "rank"}
_TWO_STAGE = "two-stage"
_EERCF = "eercf"
"""The scorer of mgvr retrieve, as a sweep calls it."""
_CUT_SHORT = "in MdR and MnR"
"""In what mgvr evaluate says of lists that end before the pool does."""


def compare(a: Path, b: Path, pairs: Sequence[str] = ()) -> Comparison:
    """Compare two runs; pairs: names of a system of A and one of B to pair, as "A's=B's".

    Raises MgvrError where one can't be read, nothing of them can be paired, or a name is none of a side's.
    """
    one, other = read_side("A", a), read_side("B", b)
    named = [_named(one, other, pair) for pair in pairs]
    taken = {name for pair in named for name in pair}
    named += [pair for pair in _same_search(one, other) if not taken & set(pair)]
    return side_by_side(one, other, datetime.now(UTC).isoformat(timespec="seconds"), named=named)


def _named(a: Side, b: Side, pair: str) -> tuple[str, str]:
    """The two names, which may hold an = themselves."""
    found = {side.name: {(system.direction, system.name) for system in side.systems} for side in (a, b)}
    parts = pair.split("=")
    for at in range(1, len(parts)):
        first, second = "=".join(parts[:at]).strip(), "=".join(parts[at:]).strip()
        if any((key, first) in found["A"] and (key, second) in found["B"] for key in TITLES):
            return first, second
    has = [
        f"{side.name} ({side.source}) has {'; '.join(dict.fromkeys(repr(system.name) for system in side.systems))}"
        for side in (a, b)
    ]
    raise MgvrError(f"--pair {pair!r} is no 'name in A=name in B' of two systems of one direction. {has[0]}. {has[1]}")


def _same_search(a: Side, b: Side) -> list[tuple[str, str]]:
    """A retrieve run's two-stage search and the row of a sweep that is the same, where exactly one is."""
    if (a.job, b.job) == ("sweep", "retrieve"):
        return [(second, first) for first, second in _same_search(b, a)]
    if (a.job, b.job) != ("retrieve", "sweep"):
        return []
    (settings,) = (
        system.settings for system in a.systems if (system.direction, system.name) == ("text_to_video", _TWO_STAGE)
    )
    # A codec, an index, a correction or other weights are settings of a row that has them.
    rows = [
        row.name for row in b.systems if {key: row.settings[key] for key in row.settings if key != "model"} == settings
    ]
    return [(_TWO_STAGE, rows[0])] if len(rows) == 1 else []


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
    cut_short = any(_CUT_SHORT in said for said in (*report.warnings, *(system.note for system in report.systems)))
    return Side(
        name,
        str(path),
        report.title,
        report.created,
        "sweep" if "grid" in report.manifest.configuration else "evaluate",
        report.systems,
        report.manifest,
        report.protocol,
        _ranked(file.with_name("ranks.parquet"), pools, cut_short),
        _right(file),
        report.interval_unit == "group",
        sum(stage.seconds for stage in report.stages) if report.stages else None,
        cut_short,
    )


def _ranked(file: Path, pools: Mapping[Key, int], cut_short: bool) -> dict[Key, Placed]:
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
    return {key: Placed(rank, pools[key], whole=True, cut_short=cut_short) for key, rank in found.items()}


def _of_retrieval(name: str, path: Path, file: Path, report: Report) -> Side:
    if report.metrics is None:
        raise MgvrError("a plain search, whose queries have no right answers: there is no figure to compare")
    right = _right(file)
    systems = [system for key, _, direction in directions(report.metrics) for system in _stages(report, key, direction)]
    return Side(
        name,
        str(path),
        report.title,
        report.created,
        "retrieve",
        tuple(systems),
        report.manifest,
        report.protocol,
        _listed(file.with_name("run.trec"), right, report.pool),
        right,
        report.metrics.text_to_video.interval_unit == "group",
        sum(stage.seconds for stage in report.stages) if report.stages else None,
    )


def _stages(report: Report, direction: DirectionKey, found: Direction) -> tuple[System, System]:
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
        {
            "scorer": _EERCF,
            "k": str(found.k),
            **({"index": report.index.factory} if report.index else {}),
            **({"certified": "yes"} if found.certified else {}),
        },
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
    parser.add_argument(
        "--pair",
        action="append",
        default=[],
        metavar="NAME=NAME",
        help="pair a system of A with one of B that has another name; may be given several times",
    )
    parser.add_argument("--out", type=Path, help="folder to write compare.html, compare.md and compare.json to")
    options = parser.parse_args(argv)
    try:
        comparison = compare(options.a, options.b, options.pair)
        print(on_terminal(comparison))
        if options.out is not None:
            print(f"\n{write_comparison(comparison, options.out)['compare.html']}")
    except MgvrError as error:
        print(f"mgvr compare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run())
