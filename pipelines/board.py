"""The log's figures for TensorBoard: `tensorboard --logdir OUT/tensorboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

_NO_FIGURES = ("kind", "step", "epoch")


class Board:
    """Event files; what a run that was killed had written after `step` is hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def add(self, record: dict[str, Any]) -> None:
        """Show the numbers of a record, under its kind."""
        for name, value in record.items():
            if name not in _NO_FIGURES and isinstance(value, int | float):
                self._writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])
        if record["kind"] == "epoch":
            self._writer.flush()
