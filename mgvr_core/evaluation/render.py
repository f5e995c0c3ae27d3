"""Writes a report as the files that people and programs read."""

from __future__ import annotations

from pathlib import Path

from mgvr_core.evaluation.html import render_html
from mgvr_core.evaluation.markdown import render_markdown
from mgvr_core.evaluation.report import Report
from mgvr_core.evaluation.report_tables import render_csv, render_tex
from mgvr_core.files import replacing


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write report.{json,md,html}, and with metrics report.{csv,tex}, into `folder`; name -> path.

    Each file is written whole or not at all.
    Raises MgvrError, before any file is touched, where a figure is NaN or infinite.
    """
    texts = {
        "report.json": report.to_json(),
        "report.md": render_markdown(report),
        "report.html": render_html(report),
    }
    if report.metrics is not None:
        texts |= {"report.csv": render_csv(report.metrics), "report.tex": render_tex(report, report.metrics)}
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text)
    return {name: folder / name for name in texts}
