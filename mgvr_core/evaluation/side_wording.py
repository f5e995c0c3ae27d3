"""How two runs side by side read: shared by the page, the Markdown and the terminal, so that they never disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from textwrap import wrap

from mgvr_core.evaluation.side_by_side import Comparison, Pair
from mgvr_core.evaluation.systems import System
from mgvr_core.evaluation.systems_wording import CORRECTED, corrected
from mgvr_core.evaluation.wording import TITLES, Cell, cell, count, figure, gain_cell, quantity, seconds, size, tone

_WIDTH = 118  # of a terminal's lines
_COSTS: tuple[tuple[str, Callable[[System], float | None], Callable[[float], str]], ...] = (
    ("Multiply-adds a query", lambda system: system.macs, quantity),
    ("Time of 1,000 queries on one thread", lambda system: system.seconds, seconds),
    ("Bytes read of a video", lambda system: system.bytes, size),
    ("Parameters of the scorer", lambda system: system.parameters or None, quantity),
)


@dataclass(frozen=True)
class Line:
    """A metric: as each run reports it, and the paired difference; tone as of `wording.tone`.

    note: what must be known of one side's figure.
    """

    name: str
    a: Cell
    b: Cell
    difference: Cell
    p: str
    tone: str
    note: str = ""


def title(pair: Pair) -> str:
    """Direction and names."""
    name = pair.a.name if pair.a.name == pair.b.name else f"{pair.a.name} (A), {pair.b.name} (B)"
    return f"{TITLES[pair.direction]}: {name}"


def lines(pair: Pair) -> list[Line]:
    """The metrics that both runs report, or for which there is a difference.

    nDCG is left out of paired ones: it takes the place of every right answer, and the files keep the best one's rank.
    """
    names = [name for name in pair.a.figures if name in pair.b.figures and not (pair.gain and name.startswith("nDCG"))]
    return [_line(pair, name) for name in dict.fromkeys([*names, *pair.gain])]


def _line(pair: Pair, name: str) -> Line:
    a, b = (cell(name, side.figures[name]) if name in side.figures else Cell("–") for side in (pair.a, pair.b))
    cut = " and ".join(side for side, cut_short in zip("AB", pair.cut_short, strict=True) if cut_short)
    note = f"{cut} by short lists" if cut and name in ("MdR", "MnR") else ""
    if name not in pair.gain:
        return Line(name, a, b, Cell("–"), "", "", note)
    gain = pair.gain[name]
    return Line(name, a, b, gain_cell(name, gain), f"{gain.p_value:.3g}", tone(name, gain), note)


def glance(comparison: Comparison) -> list[tuple[str, Line]]:
    """R@1 of every pair."""
    return [
        (title(pair), _line(pair, "R@1"))
        for pair in comparison.pairs
        if "R@1" in pair.a.figures and "R@1" in pair.b.figures
    ]


def verdict(pair: Pair) -> str:
    """What the paired difference of R@1 means, in words."""
    if "R@1" not in pair.gain:
        return ""
    gain = pair.gain["R@1"]
    found = gain_cell("R@1", gain)
    said = (
        f"On the {count(pair.shared or 0)} shared queries A has R@1 {figure('R@1', pair.shared_a['R@1'])} and B "
        f"{figure('R@1', pair.shared_b['R@1'])}: {found.value} points ({found.interval})"
    )
    if gain.excludes_zero:
        return f"{said}. The interval excludes 0."
    return f"{said}. The interval includes 0: these queries can't tell the two apart."


def note(comparison: Comparison) -> str:
    """What the differences are, and how their intervals were made."""
    units = {pair.interval_unit for pair in comparison.pairs if pair.gain}
    unit = "videos, the queries of one drawn together" if "group" in units else "queries"
    priced = any(costs(pair) and (corrected(pair.a) or corrected(pair.b)) for pair in comparison.pairs)
    return (
        "Figures are each run's own, on all its queries; the difference is B minus A on the shared queries, paired by "
        f"their ids. Ranges are {100 * comparison.level:g} % bootstrap intervals ({count(comparison.resamples)} "
        f"resamples of {unit}); p is a reading aid, not corrected for the number of rows. R@K in percent; MdR and MnR: "
        "lower is better, and MdR, a median, has no paired difference." + (f" {CORRECTED}" if priced else "")
    )


def shared(pair: Pair) -> str:
    """How many queries both have; empty where the files don't say which they are."""
    return "" if pair.shared is None else f"{count(pair.shared)} shared"


def one_sided(comparison: Comparison) -> str:
    """What the list of differences leaves out; empty where it is everything."""
    if comparison.a.job == comparison.b.job:
        return ""
    jobs = f"A is of mgvr {comparison.a.job}, B of mgvr {comparison.b.job}"
    return f"{jobs}: what only one of these has a setting for is left out."


def costs(pair: Pair) -> list[tuple[str, str, str, str]]:
    """(what, A, B, B as a multiple of A), of what either was measured for."""
    found = []
    for what, of, show in _COSTS:
        a, b = of(pair.a), of(pair.b)
        if a is not None or b is not None:
            ratio = f"{b / a:.3g}×" if a and b is not None else "–"
            found.append((what, "–" if a is None else show(a), "–" if b is None else show(b), ratio))
    return found


def alone(comparison: Comparison) -> Iterator[str]:
    """Systems that only one of the two has, and pairs without a paired difference."""
    if unpaired := [title(pair) for pair in comparison.pairs if not pair.gain]:
        yield f"No paired difference, because the lists of both runs are not there, for: {'; '.join(unpaired)}."
    for name, keys in (("A", comparison.alone_a), ("B", comparison.alone_b)):
        if keys:
            yield f"Only in {name}: {', '.join(f'{system} ({TITLES[key].lower()})' for key, system in keys)}."


def on_terminal(comparison: Comparison) -> str:
    """The comparison as lines of text."""
    said = [f"A  {comparison.a.source}  ({comparison.a.title})", f"B  {comparison.b.source}  ({comparison.b.title})"]
    for pair in comparison.pairs:
        said += ["", title(pair)]
        table = [("", "A", "B", "B - A", "p")]
        table += [
            (_named(line), _plain(line.a), _plain(line.b), _plain(line.difference), line.p) for line in lines(pair)
        ]
        table += [(what, a, b, ratio, "") for what, a, b, ratio in costs(pair)]
        widths = [max(len(row[column]) for row in table) for column in range(5)]
        said += [
            "  "
            + "  ".join(
                text.ljust(width) if column == 0 else text.rjust(width)
                for column, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        if known := shared(pair):
            said.append(f"  Queries: {count(pair.a.queries)} in A, {count(pair.b.queries)} in B, {known}")
        said += wrap(verdict(pair), _WIDTH, initial_indent="  ", subsequent_indent="  ")
    said.append("")
    for paragraph in (note(comparison), *alone(comparison)):
        said += wrap(paragraph, _WIDTH)
    if comparison.differences:
        said += ["", f"What differs: {one_sided(comparison)}".rstrip()]
        width = min(48, max(len(f"{each.kind} {each.key}") for each in comparison.differences))
        for each in comparison.differences:
            said.append(f"  {f'{each.kind} {each.key}':<{width}}  {shown(each.a)} | {shown(each.b)}")
    for warning in comparison.warnings:
        said += ["", *wrap(f"To know first: {warning}", _WIDTH)]
    return "\n".join(said)


def _named(line: Line) -> str:
    return f"{line.name} ({line.note})" if line.note else line.name


def _plain(found: Cell) -> str:
    return f"{found.value} ({found.interval})" if found.interval else found.value


def shown(value: str | None) -> str:
    """A value in which the runs differ."""
    return "–" if value is None else value
