"""Writes two runs side by side as the files that people and programs read."""

from __future__ import annotations

from pathlib import Path

from mgvr_core.evaluation import side_wording, wording
from mgvr_core.evaluation.pages import template
from mgvr_core.evaluation.side_by_side import Comparison
from mgvr_core.files import replacing


def write_comparison(comparison: Comparison, folder: Path) -> dict[str, Path]:
    """Write compare.{json,html,md} into `folder`, each whole or not at all; name -> path.

    Raises MgvrError, before any file is touched, where a figure is NaN or infinite.
    """
    texts = {
        "compare.json": comparison.to_json(),
        "compare.html": _page(comparison, "compare.html.j2"),
        "compare.md": _page(comparison, "compare.md.j2"),
    }
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text)
    return {name: folder / name for name in texts}


def _page(comparison: Comparison, name: str) -> str:
    return template(name).render(report=comparison, words=wording, page=side_wording)
