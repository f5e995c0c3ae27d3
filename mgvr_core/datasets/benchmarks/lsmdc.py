"""LSMDC 2016 (Rohrbach et al., IJCV 2017): movie clips with one audio description each."""

from __future__ import annotations

from pathlib import Path

from mgvr_core.datasets.benchmarks.assembling import SINGLE, assemble, queries_of
from mgvr_core.datasets.benchmarks.benchmark import Benchmark, Protocol
from mgvr_core.datasets.benchmarks.files import Annotations, caption, read_lines, refuse
from mgvr_core.errors import MgvrError

PROTOCOLS = (Protocol("lsmdc", "LSMDC 2016, public test", "one", 32, 12, 1000, SINGLE),)

_COLUMNS = 6


def read(protocol: Protocol, source: Annotations) -> Benchmark:
    """The benchmark from LSMDC16_challenge_1000_publictect.csv and, where they are, the other splits; else MgvrError.

    Tab-separated without a header: clip, four times in the movie, sentence. A clip is a file of its own, so the times
    are not read. In training and validation a clip may have several sentences.
    """
    file = source.test("LSMDC16_challenge_1000_publictect.csv")
    test = _captions(file)
    several = next((clip for clip, texts in test.items() if len(texts) > 1), None)
    if several:
        raise MgvrError(
            f"{file}: the clip {several!r} is there twice: the test has one sentence a clip, so keep one row"
        )
    train, validation = (
        _captions(other) if other else {}
        for other in (source.find("LSMDC16_annos_training.csv"), source.find("LSMDC16_annos_val.csv"))
    )
    return assemble(protocol, source, queries_of(test), list(test), train, validation)


def _captions(file: Path) -> dict[str, list[str]]:
    """Clip -> sentences."""
    found: dict[str, list[str]] = {}
    for number, line in read_lines(file):
        cells = line.split("\t")
        if len(cells) != _COLUMNS or not cells[0].strip():
            refuse(
                *(file, f"line {number}"),
                f"must be {_COLUMNS} columns between tabs (clip, four times, sentence), not {len(cells)}: wrong file?",
            )
        found.setdefault(cells[0].strip(), []).append(caption(cells[-1], file, f"line {number}"))
    if not found:
        raise MgvrError(f"{file} holds no rows")
    return found
