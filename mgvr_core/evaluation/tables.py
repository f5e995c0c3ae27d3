"""Tables for other programs: CSV with every digit, and LaTeX with the booktabs package."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from mgvr_core.evaluation.bootstrap import Gain, Interval
from mgvr_core.evaluation.wording import Cell

_TEX = {
    **{special: f"\\{special}" for special in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
_SPECIAL = re.compile("[" + re.escape("".join(_TEX)) + "]")

Value = str | int | float | bool | None


def to_csv(header: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """A table as CSV (RFC 4180 but for its line ends); None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def spread(figure: Interval | Gain | None) -> tuple[float | None, float | None, float | None]:
    """A figure's three columns: value, low, high."""
    return (None, None, None) if figure is None else (figure.value, figure.low, figure.high)


def to_tex(header: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str) -> str:
    r"""A table float for \usepackage{booktabs}: the first column to the left, the others to the right.

    An interval stands small behind its figure.
    """
    lines = [
        r"\begin{table}",
        rf"\caption{{{tex(caption)}}}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(map(tex, header)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_tex_cell, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def tex(text: object) -> str:
    """Any text as one line of plain LaTeX text."""
    return _SPECIAL.sub(lambda found: _TEX[found[0]], " ".join(str(text).split()))


def _tex_cell(cell: Cell) -> str:
    return tex(cell.value) + (rf" {{\scriptsize [{tex(cell.interval)}]}}" if cell.interval else "")
