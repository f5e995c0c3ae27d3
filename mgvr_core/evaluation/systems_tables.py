"""Systems side by side as CSV (every figure, every digit) and as a LaTeX table."""

from __future__ import annotations

from mgvr_core.evaluation.systems import System, SystemsReport
from mgvr_core.evaluation.systems_wording import called, cells, columns, cost_note, pools, protocol, sections
from mgvr_core.evaluation.tables import Value, spread, tex, to_csv, to_tex
from mgvr_core.evaluation.wording import Cell, intervals_note


def render_csv(report: SystemsReport) -> str:
    """A row a system; rates are fractions, and a field is empty where nothing was measured."""
    systems = report.systems
    metrics = list(dict.fromkeys(name for system in systems for name in system.figures))
    gains = list(dict.fromkeys(name for system in systems for name in system.gain))
    compatible = list(dict.fromkeys(name for system in systems for name in system.compatible))
    settings = list(dict.fromkeys(name for system in systems for name in system.settings))
    header = [
        *("system", "direction", "queries", "pool", "unanswerable", "transductive"),
        *(f"{name}{end}" for name in metrics for end in ("", " low", " high")),
        *(f"gain {name}{end}" for name in gains for end in ("", " low", " high", " p")),
        "groups",
        *(f"recall at k{end}" for end in ("", " low", " high")),
        *("multiply-adds", "seconds", "bytes", "parameters", "tied queries"),
        *(f"compatible {name}" for name in compatible),
        *("expected", "drifted"),
        *(f"setting {name}" for name in settings),
        "note",
    ]

    def row(system: System) -> list[Value]:
        paired = [system.gain.get(name) for name in gains]
        return [
            *(system.name, system.direction, system.queries, system.pool, system.unanswerable, system.transductive),
            *(value for name in metrics for value in spread(system.figures.get(name))),
            *(value for gain in paired for value in (*spread(gain), None if gain is None else gain.p_value)),
            system.groups,
            *spread(system.recall_at_k),
            *(system.macs, system.seconds, system.bytes, system.parameters),
            None if system.ties is None else system.ties.queries,
            *(system.compatible.get(name) for name in compatible),
            len(system.expected),
            sum(not each.ok for each in system.expected),
            *(system.settings.get(name) for name in settings),
            system.note,
        ]

    return to_csv(header, [row(system) for system in systems])


def render_tex(report: SystemsReport) -> str:
    """A booktabs table for each direction, with the columns of the page, and the protocol as a comment above."""
    lines = [*(f"{tex(name)}: {tex(value)}" for name, value in protocol(report)), "needs the package booktabs"]
    parts = ["".join(f"% {line}\n" for line in lines)]
    for section in sections(report):
        queries, pool = pools(section.systems)
        shown = columns(section.systems)
        rows = [[Cell(called(row)), *cells(row.system, shown)] for row in section.rows]
        caption = (
            f"{report.title}: {section.title.lower()}, {queries} queries, pool of {pool}. {intervals_note(report)}"
        )
        caption = f"{caption} {cost_note(shown, section.systems)}".rstrip()
        parts.append(to_tex(["System", *(column.name for column in shown)], rows, caption))
    return "\n".join(parts)
