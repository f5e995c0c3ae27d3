"""How systems side by side read: shared by the HTML page, the Markdown and the LaTeX, so that they never disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from mgvr_core.evaluation.systems import Expectation, System, SystemsReport
from mgvr_core.evaluation.wording import (
    TITLES,
    Cell,
    cell,
    count,
    figure,
    gain_cell,
    quantity,
    seconds,
    size,
    ties_note,
    tone,
)

TRANSDUCTIVE = (
    "Rows marked transductive have read the other test queries, or all test videos' lists at once: what they gain is "
    "not there for a single query, and they must not be compared with rows that have not."
)
COMPATIBLE = (
    "What the field's usual script would print for the same scores, to be set beside published tables. It may break "
    "ties and leave queries out in its own way; the figures above do not."
)
APART = "These have read the other test queries, and must not be compared with those above."
CORRECTED = "A correction's own cost is not in the multiply-adds and the time."
GROUPS = (
    "Systems that share a letter are not told apart by R@1 on these queries (exact paired randomisation test of every "
    "two, adjusted for their number by Holm)."
)
MEANINGS = {
    "Gain in R@1": "points over the baseline on the same queries",
    "Group": "systems that share a letter are not told apart",
    "Stage-1 ceiling": "share of queries with a right answer among the candidates, the most that R@1 can become",
    "Multiply-adds": "of scoring a query",
    "Time": "measured, of scoring 1,000 queries on one thread",
    "Stored": (
        "what is read of a video's stored features; what could be precomputed (mean_pool's one vector) is not assumed"
    ),
    "Parameters": "of the scorer's own",
}


@dataclass(frozen=True)
class Numbered:
    """A system and its number in the table, by which plots name it."""

    number: int
    system: System


@dataclass(frozen=True)
class Section:
    """The systems of one direction."""

    key: str
    title: str
    rows: tuple[Numbered, ...]

    @property
    def systems(self) -> list[System]:
        """Without their numbers."""
        return [row.system for row in self.rows]


@dataclass(frozen=True)
class Shown(Cell):
    """A cell of a table; tone: "good" or "bad" where an interval of a gain excludes 0."""

    tone: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the table. It is left out where it has no cell."""

    name: str
    cell: Callable[[System], Shown | None]


@dataclass(frozen=True)
class Place:
    """A line of the ranking: bars are percents of the scale, from `low` to `high` around `value`."""

    row: Numbered
    figure: Cell
    low: float
    value: float
    high: float


def sections(report: SystemsReport) -> list[Section]:
    """The systems by direction, in the report's order; numbers run through."""
    rows = [Numbered(number, system) for number, system in enumerate(report.systems, start=1)]
    return [
        Section(key, title, found)
        for key, title in TITLES.items()
        if (found := tuple(row for row in rows if row.system.direction == key))
    ]


def columns(systems: Sequence[System]) -> list[Column]:
    """The columns that hold anything for these systems."""
    metrics = [_metric(name) for name in ("R@1", "R@5", "R@10", "MdR")]
    every = [
        *metrics,
        Column("Gain in R@1", _gain),
        Column("Group", lambda system: Shown(letters) if (letters := group(system)) else None),
        Column("Stage-1 ceiling", _ceiling),
        Column("Multiply-adds", lambda system: None if system.macs is None else Shown(quantity(system.macs))),
        Column("Time", lambda system: None if system.seconds is None else Shown(seconds(system.seconds))),
        Column("Stored", lambda system: None if system.bytes is None else Shown(size(system.bytes))),
        Column("Parameters", lambda system: Shown(quantity(system.parameters)) if system.parameters else None),
    ]
    return [column for column in every if any(column.cell(system) for system in systems)]


def cells(system: System, shown: Sequence[Column]) -> list[Shown]:
    """A system's cells; a dash where it has none."""
    return [column.cell(system) or Shown("–") for column in shown]


def _metric(name: str) -> Column:
    def shown(system: System) -> Shown | None:
        if name not in system.figures:
            return None
        found = cell(name, system.figures[name])
        return Shown(found.value, found.interval)

    return Column(name, shown)


def _gain(system: System) -> Shown | None:
    if "R@1" not in system.gain:
        return None
    gain = system.gain["R@1"]
    found = gain_cell("R@1", gain)
    return Shown(found.value, found.interval, "" if system.transductive else tone("R@1", gain))


def _ceiling(system: System) -> Shown | None:
    if system.recall_at_k is None:
        return None
    found = cell("R@", system.recall_at_k)
    return Shown(found.value, found.interval)


def short(groups: str) -> str:
    """Letters with runs of three and more drawn together: abcdfh -> a–d f h."""
    runs = [list(run) for _, run in groupby(enumerate(groups), key=lambda item: ord(item[1]) - item[0])]
    parts = ["".join(letter for _, letter in run) for run in runs]
    said = [f"{part[0]}–{part[-1]}" if len(part) > 2 else part for part in parts]
    return " ".join(said) if any(len(part) > 2 for part in parts) else groups


def group(system: System) -> str:
    """The letters of a system as shown; none of a transductive one, which is no rival of the others."""
    return "" if system.transductive else short(system.groups)


def corrected(system: System) -> bool:
    """Whether a correction of hubness is part of it."""
    return system.settings.get("correction", "none") != "none"


def number(report: SystemsReport) -> str:
    """How many systems there are."""
    found = len(report.systems)
    return f"{count(found)} system{'' if found == 1 else 's'}"


def called(row: Numbered) -> str:
    """The name of a system, with what must be known of it."""
    said = row.system.transductive and "transductive" not in row.system.name
    return row.system.name + (" (transductive)" if said else "")


def meanings(shown: Sequence[Column], systems: Sequence[System]) -> str:
    """What the columns mean that don't say it themselves, and what a cost leaves out."""
    said = ". ".join(f"{column.name}: {MEANINGS[column.name]}" for column in shown if column.name in MEANINGS)
    text = f"R@K in percent; MdR: median rank, lower is better. {said}{'.' if said else ''}"
    return f"{text} {cost_note(shown, systems)}".rstrip()


def cost_note(shown: Sequence[Column], systems: Sequence[System]) -> str:
    """What the costs of corrected rows leave out; empty where there are none."""
    priced = any(column.name in ("Multiply-adds", "Time") for column in shown)
    return CORRECTED if priced and any(corrected(system) for system in systems) else ""


def ranking(section: Section) -> tuple[list[Place], list[Place]]:
    """The systems from the best R@1 down, with bars on the scale of the lowest to the highest interval.

    Those that read one query at a time, and apart from them the transductive ones.
    """
    ranked = [row for row in section.rows if "R@1" in row.system.figures]
    if not ranked:
        return [], []
    found = {row.number: row.system.figures["R@1"] for row in ranked}
    bottom, top = min(one.low for one in found.values()), max(one.high for one in found.values())

    def at(value: float) -> float:
        return 100 * (value - bottom) / ((top - bottom) or 1.0)

    ranked.sort(key=lambda row: -found[row.number].value)
    places = [
        Place(row, cell("R@1", one), at(one.low), at(one.value), at(one.high))
        for row in ranked
        for one in [found[row.number]]
    ]
    alone = [place for place in places if not place.row.system.transductive]
    return alone, [place for place in places if place.row.system.transductive]


def verdict(section: Section, report: SystemsReport) -> str:
    """Who is first by R@1 among those that read one query at a time, and who can't be told from it."""
    able = [row for row in section.rows if not row.system.transductive and "R@1" in row.system.figures]
    if not able:
        return ""
    best = max(able, key=lambda row: row.system.figures["R@1"].value)
    shown = cell("R@1", best.system.figures["R@1"])
    among = " of those that read one query at a time" if len(able) < len(section.rows) else ""
    said = f"Highest R@1{among}: {best.system.name}, {shown.value} % ({shown.interval})"
    if gain := best.system.gain.get("R@1"):
        found = gain_cell("R@1", gain)
        baseline = f" ({report.baseline})" if report.baseline else ""
        said += f", {found.value} points ({found.interval}) over the baseline{baseline}"
    if not best.system.groups or len(able) == 1:
        return said + "."
    like = [row for row in able if row is not best and set(row.system.groups) & set(best.system.groups)]
    if not like:
        return said + ". The queries tell it apart from every other."
    return said + f". The queries can't tell it apart from {count(len(like))} of the other {count(len(able) - 1)}."


def expectations(report: SystemsReport) -> list[tuple[Numbered, Expectation]]:
    """Every figure that was stated beforehand."""
    return [(row, each) for section in sections(report) for row in section.rows for each in row.system.expected]


def expected_cells(each: Expectation) -> tuple[str, str, str]:
    """(expected with its tolerance, found, drift) in the field's habit, with a decimal more than a table has."""
    scale, sign = (100, "") if each.metric.startswith("R@") else (1, "")
    digits = 2 if scale == 100 else 4
    drift = f"{scale * (each.found - each.value):+.{digits}f}".replace("-", "−")
    return (
        f"{scale * each.value:{sign}.{digits}f} ± {scale * each.tolerance:g}",
        f"{scale * each.found:.{digits}f}",
        drift,
    )


def drift_note(report: SystemsReport) -> str:
    """OK or FAIL, in a sentence; empty where nothing was expected."""
    total, drifted = len(expectations(report)), len(report.drifted)
    if not total:
        return ""
    if not drifted:
        return f"OK: all {count(total)} expected figures are within their tolerance."
    return f"FAIL: {count(drifted)} of {count(total)} expected figures have drifted."


def settings(section: Section) -> tuple[dict[str, str], list[str]]:
    """What all systems share, and the names of the settings in which they differ."""
    names = list(dict.fromkeys(name for system in section.systems for name in system.settings))
    first = section.systems[0].settings
    shared = {
        name: first[name]
        for name in names
        if name in first and all(system.settings.get(name) == first[name] for system in section.systems)
    }
    return shared, [name for name in names if name not in shared]


def compatible(section: Section) -> tuple[list[str], list[tuple[Numbered, list[str]]]]:
    """The field-compatible figures: names, and a row a system that has any."""
    names = list(dict.fromkeys(name for system in section.systems for name in system.compatible))
    return names, [
        (
            row,
            [figure(name, row.system.compatible[name]) if name in row.system.compatible else "–" for name in names],
        )
        for row in section.rows
        if row.system.compatible
    ]


def notes(section: Section) -> Iterator[str]:
    """What must be known of single systems: their own notes, ties, and queries that nothing could answer."""
    for row in section.rows:
        system, said = row.system, f"{row.number}, {called(row)}: "
        if system.note:
            yield said + system.note
        if system.ties is not None and (tied := ties_note(system.ties)):
            yield f"{said}{tied}"
    lost = {system.unanswerable for system in section.systems}
    if lost != {0}:
        most = count(max(lost)) if len(lost) == 1 else f"up to {count(max(lost))}"
        yield f"Queries without a right answer in the pool, counted as misses: {most}."


def pools(systems: Sequence[System]) -> tuple[str, str]:
    """The numbers of queries and of items in the pool, as text."""
    forms = []
    for sizes in ({system.queries for system in systems}, {system.pool for system in systems}):
        low, high = min(sizes, default=0), max(sizes, default=0)
        forms.append(count(low) if low == high else f"{count(low)}–{count(high)}")
    return forms[0], forms[1]


def protocol(report: SystemsReport) -> Iterator[tuple[str, str]]:
    """(label, value) lines; pool sizes first, since no figure means anything without them."""
    for section in sections(report):
        queries, pool = pools(section.systems)
        yield f"{section.title}: queries, and items in the pool", f"{queries} over {pool}"
    yield from report.protocol.items()
