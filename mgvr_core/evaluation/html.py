"""The report as one HTML page that loads nothing: styles, plots and pictures are inside it."""

from __future__ import annotations

import json
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined

from mgvr_core.evaluation import plots, wording
from mgvr_core.evaluation.report import Report


def render_html(report: Report) -> str:
    """The whole page. All text from the report is escaped; a content security policy forbids any request."""
    environment = Environment(
        loader=PackageLoader("mgvr_core.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return environment.get_template("report.html.j2").render(
        report=report,
        words=wording,
        plots=plots,
        examples=[
            (*wording.EXAMPLE_TITLES[kind], list(group))
            for kind, group in groupby(report.examples, key=lambda example: example.kind)
        ],
    )
