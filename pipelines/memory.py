"""How much memory a worker and the processes that it started have used at most."""

from __future__ import annotations

import os
import resource
import socket
import sys
from pathlib import Path

_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in one of ru_maxrss."""


def peak_memory() -> tuple[str, int]:
    """The name of the process in the cluster, and the most bytes that it and its running children have held.

    Each at its own peak, so that their sum is an upper bound. Children are counted on Linux alone.
    """
    # Linux's own ru_maxrss counts in what the program that started this one held.
    held = _peak("self") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
    return f"{socket.gethostname()}/{os.getpid()}", held + sum(_peak(child) for child in _children())


def _children() -> list[str]:
    try:
        lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    except OSError:
        return []
    return [child for text in lists for child in text.split()]


def _peak(process: str) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0  # it has ended meanwhile
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
