"""Every score there is, as a table: what it reads of a video, what it costs, and whether it has to be trained.

Multiply-adds are those of one pair at ViT-B/32's sizes: 12 frames, 49 patches a frame, 512 dimensions, 32 words; what
is computed once for a text or once for a video is not in them.

  mgvr scorers
  mgvr scorers --name x_pool
  mgvr scorers --markdown
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence

import torch
from pydantic import Field

from mgvr_core.config import Section
from mgvr_core.scorers.catalogue import catalogue, find
from mgvr_core.scorers.scorer import Scorer, Setting, Sizes
from pipelines.runtime import main

B32 = Sizes(frames=12, patches=49, dim=512, words=32)
"""ViT-B/32, as the published systems are compared."""
_HEADS = ("name", "title", "reads", "kind", "multiply-adds", "parameters", "formula")


class ScorersConfig(Section):
    """mgvr scorers."""

    name: str | None = Field(None, description="one scorer, with all that its file says of it; none: all as a table")
    markdown: bool = Field(False, description="the table as Markdown, as docs/scorers.md has it")


def show(config: ScorersConfig) -> None:
    """Print the table, or one scorer; raises MgvrError for one that there is not."""
    if config.name is not None:
        scorer = find(config.name)
        title = f"{config.name}: {scorer.title}\n{scorer.source}"
        print(f"{title}\n\n{scorer.formula}\n\n{inspect.cleandoc(scorer.__doc__ or '')}")
    elif config.markdown:
        print(table())
    else:
        rows = [_HEADS[:-1], *(_row(name, scorer)[:-1] for name, scorer in catalogue().items())]
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def table() -> str:
    """All scorers as a table in Markdown."""
    rows = [_HEADS, ["---"] * len(_HEADS), *(_row(name, scorer) for name, scorer in catalogue().items())]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _row(name: str, scorer: type[Scorer]) -> tuple[str, ...]:
    learned = sum(each.numel() for each in scorer(Setting(B32, torch.eye(B32.dim))).parameters())
    reads = ", ".join(part for part in ("words", "video", "frames", "temporal", "patches") if part in scorer.reads)
    macs = scorer.multiply_adds(B32)
    return name, scorer.title, reads, scorer.kind, _short(macs), _short(learned) if learned else "none", scorer.formula


def _short(number: int) -> str:
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " K")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code."""
    return main(ScorersConfig, show, "mgvr scorers", __doc__, argv)


if __name__ == "__main__":
    sys.exit(run())
