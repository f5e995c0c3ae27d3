"""Writes a report as the three files that people and programs read."""

from __future__ import annotations

from pathlib import Path

from mgvr_core.evaluation.html import render_html
from mgvr_core.evaluation.markdown import render_markdown
from mgvr_core.evaluation.report import Report
from mgvr_core.files import replacing


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write report.json, report.md and report.html into `folder`, each whole or not at all; name -> path.

    Raises MgvrError, before any file is touched, where a figure is NaN or infinite.
    """
    texts = {
        "report.json": report.to_json(),
        "report.md": render_markdown(report),
        "report.html": render_html(report),
    }
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text)
    return {name: folder / name for name in texts}
