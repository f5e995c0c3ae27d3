"""Sweeps: retrieval systems over a grid, or trainings that differ in one thing each, as one table.

A sweep file with `grid` is the first kind, one with `rows` the second; each has a help of its own:

  mgvr sweep jobs/sweeps/demo.yaml --help
  mgvr sweep jobs/sweeps/ablation.yaml --help
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines import sweep_grid, sweep_trainings
from pipelines.options import given_keys


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    if "rows" in given_keys(words):
        return sweep_trainings.run(words)
    return sweep_grid.run(words)


if __name__ == "__main__":
    sys.exit(run())
