"""Writes systems side by side as the files that people and programs read."""

from __future__ import annotations

from pathlib import Path

from mgvr_core.evaluation import systems_wording, wording
from mgvr_core.evaluation.pages import template
from mgvr_core.evaluation.systems import SystemsReport
from mgvr_core.evaluation.systems_plots import paretos
from mgvr_core.evaluation.systems_tables import render_csv, render_tex
from mgvr_core.files import replacing


def write_systems(report: SystemsReport, folder: Path) -> dict[str, Path]:
    """Write systems.{json,html,md,csv,tex} into `folder`, each whole or not at all; name -> path.

    The page loads nothing: styles and plots are inside it. Raises MgvrError, before any file is touched, where a
    figure is NaN or infinite.
    """
    texts = {
        "systems.json": report.to_json(),
        "systems.html": _page(report, "systems.html.j2"),
        "systems.md": _page(report, "systems.md.j2"),
        "systems.csv": render_csv(report),
        "systems.tex": render_tex(report),
    }
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text)
    return {name: folder / name for name in texts}


def _page(report: SystemsReport, name: str) -> str:
    return template(name).render(report=report, words=wording, page=systems_wording, paretos=paretos)
