"""The benchmarks by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mgvr_core.config import suggest
from mgvr_core.datasets.benchmarks import activitynet, didemo, lsmdc, manifest, msrvtt, msvd, vatex
from mgvr_core.datasets.benchmarks.benchmark import Benchmark, Protocol
from mgvr_core.datasets.benchmarks.files import Annotations
from mgvr_core.errors import MgvrError

_Read = Callable[[Protocol, Annotations], Benchmark]

_READERS: dict[str, tuple[Protocol, _Read]] = {
    protocol.name: (protocol, module.read)
    for module in (msrvtt, msvd, vatex, activitynet, didemo, lsmdc, manifest)
    for protocol in module.PROTOCOLS
}

NAMES = tuple(_READERS)
"""As the command line takes them."""


def protocols() -> dict[str, Protocol]:
    """The rules of every benchmark, by its name."""
    return {name: protocol for name, (protocol, _) in _READERS.items()}


def read_benchmark(name: str, path: Path) -> Benchmark:
    """A benchmark from the folder of its annotation files, or from the test split's file with the others beside it.

    Raises MgvrError for an unknown name and, with the file and the row or key, for whatever is missing or is not what
    the benchmark's files hold (docs/benchmarks.md). Videos and queries are in the order of the files.
    """
    if name not in _READERS:
        raise MgvrError(f"no benchmark {name!r}{suggest(name, NAMES) or '.'} There are: {', '.join(NAMES)}")
    protocol, read = _READERS[name]
    return read(protocol, Annotations(path))
