"""The report as one HTML page that loads nothing: styles, plots and pictures are inside it."""

from __future__ import annotations

from itertools import groupby

from mgvr_core.evaluation import plots, wording
from mgvr_core.evaluation.pages import template
from mgvr_core.evaluation.report import Report


def render_html(report: Report) -> str:
    """The whole page. All text from the report is escaped; a content security policy forbids any request."""
    return template("report.html.j2").render(
        report=report,
        words=wording,
        plots=plots,
        examples=[
            (*wording.EXAMPLE_TITLES[kind], list(group))
            for kind, group in groupby(report.examples, key=lambda example: example.kind)
        ],
    )
