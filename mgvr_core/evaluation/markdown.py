"""The report as Markdown: the tables and findings, without pictures."""

from __future__ import annotations

import json
import re

from jinja2 import Environment, PackageLoader, StrictUndefined

from mgvr_core.evaluation import wording
from mgvr_core.evaluation.report import Report

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")


def render_markdown(report: Report) -> str:
    """The whole document. Text from the report passes `escape`, so that it can't become markup or HTML."""
    environment = Environment(
        loader=PackageLoader("mgvr_core.evaluation"),
        autoescape=False,  # Markdown, not HTML: every text of the user's goes through `text`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["text"] = escape
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return environment.get_template("report.md.j2").render(report=report, words=wording)


def escape(text: object) -> str:
    """Any text as one line of plain Markdown text, safe in a table cell."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)
