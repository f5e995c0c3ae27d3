"""The report as Markdown: the tables and findings, without pictures."""

from __future__ import annotations

from mgvr_core.evaluation import wording
from mgvr_core.evaluation.pages import template
from mgvr_core.evaluation.report import Report


def render_markdown(report: Report) -> str:
    """The whole document. Text from the report passes `pages.escape`, so that it can't become markup or HTML."""
    return template("report.md.j2").render(report=report, words=wording)
