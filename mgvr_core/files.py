"""Whole files or none: what a killed job must not leave half-written under its final name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from uuid import uuid4


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the name `path` when the block ends, and leaves no trace when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own keeps two writers apart; the ending keeps globs of readers away.
    partial = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A UTF-8 text file that takes the name `path` when the block ends, and leaves no trace when it raises."""
    with placing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        yield file


def sync(path: Path) -> None:
    """Let a file, or a folder's names, reach the disk: a power cut can't leave a name without its bytes then."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
