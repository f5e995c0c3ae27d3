"""One line of progress for work that is spread over many processes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_EVERY_TERMINAL, _EVERY_LOG = 1.0, 10.0
"""Seconds between lines: on a terminal the line is rewritten, in a log each one stays."""
_PATIENCE = 5.0
"""Seconds that a line waits for the counter."""


@ray.remote(num_cpus=0)
class Counter:
    """Counts what the workers have done, by name."""

    def __init__(self) -> None:
        self._counts: dict[str, float] = {}
        self._measures: dict[str, float] = {}
        self._peaks: dict[str, int] = {}
        self._failure: str | None = None

    def fail(self, message: str) -> None:
        """Note why the work can't go on, for the driver: an error that is raised would only be tried again."""
        self._failure = self._failure or message

    def failure(self) -> str | None:
        """What was noted first, if anything was."""
        return self._failure

    def add(self, name: str, number: int) -> None:
        """Count `number` more."""
        self._counts[name] = self._counts.get(name, 0) + number

    def set(self, name: str, value: float) -> None:
        """Show a value beside the counts."""
        self._counts[name] = value

    def read(self) -> dict[str, float]:
        """All counts and values so far."""
        return dict(self._counts)

    def measure(self, values: dict[str, float], process: str = "", peak: int = 0) -> None:
        """Add to sums that are for the summary alone, and note a process's peak memory in bytes."""
        for name, value in values.items():
            self._measures[name] = self._measures.get(name, 0.0) + value
        self._peaks[process] = max(peak, self._peaks.get(process, 0))

    def measures(self) -> dict[str, float]:
        """The sums, and as `peak_bytes` the peaks of all processes together."""
        return {**self._measures, "peak_bytes": float(sum(self._peaks.values()))}


def read_measures(counter: Any) -> dict[str, float]:
    """The sums that the workers have reported; empty where their keeper is gone."""
    try:
        measures: dict[str, float] = ray.get(counter.measures.remote(), timeout=_PATIENCE)
    except (RayError, TimeoutError):
        return {}
    return measures


class Silent:
    """Stands in for the counter's handle where a stage runs outside a pipeline and nobody counts."""

    def __getattr__(self, name: str) -> Silent:
        return self

    def remote(self, *values: object) -> None:
        """Nothing."""


@contextmanager
def progress(label: str, total: int, counted: str) -> Iterator[Any]:
    """Print progress while the block runs; yields the counter's handle for workers to add to.

    `counted` is the name of the count that runs to `total`; the others are shown beside it.
    """
    # Beside the driver: a node that goes takes no counts with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    counter = Counter.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    done = threading.Event()
    printer = threading.Thread(target=_print, args=(label, total, counted, counter, done), daemon=True)
    printer.start()
    try:
        yield counter
    finally:
        done.set()
        printer.join()


def _print(label: str, total: int, counted: str, counter: Any, done: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    began = time.monotonic()
    while not done.wait(_EVERY_TERMINAL if terminal else _EVERY_LOG):
        try:
            counts = ray.get(counter.read.remote(), timeout=_PATIENCE)
        except (RayError, TimeoutError):
            continue  # a line of progress is not worth a job: its node may be gone, or busy
        line = describe(label, counts, total, counted, time.monotonic() - began)
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def describe(label: str, counts: dict[str, float], total: int, counted: str, seconds: float) -> str:
    """The progress line: counts, rate and what is left."""
    finished = counts.get(counted, 0)
    # What an earlier run had done took none of this one's time.
    rate = (finished - counts.get("resumed", 0)) / seconds if seconds > 0 else 0.0
    left = f", about {(total - finished) / rate:.0f} s left" if rate > 0 else ""
    others = "".join(f", {name} {number}" for name, number in counts.items() if name != counted and number)
    return f"{label}: {counted} {finished} of {total}{others}; {rate:.1f}/s{left}"
