"""A benchmark's annotation files -> manifests and queries for the other jobs, and a check of one's copy of the videos.

Reads    the annotation files as the field passes them around, in a folder; or the test split's file alone, with the
         others looked for beside it: docs/benchmarks.md says which
Writes   OUT/test.jsonl          the videos that are there, for mgvr encode
         OUT/test-queries.jsonl  all queries, for mgvr retrieve; one whose videos are missing counts as a miss
         OUT/train.jsonl, OUT/validation.jsonl   captioned videos, for mgvr train, where the files have such splits
         OUT/dataset.json        the protocol, what is missing, warnings, notes, the hashes of the annotation files

Without `videos` it reads and checks the annotations alone, and writes the queries and dataset.json.

  mgvr dataset msrvtt-1ka --annotations msrvtt/ --videos msrvtt/videos --out runs/msrvtt
  mgvr dataset activitynet --annotations anet/val_1.json --out runs/anet
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from mgvr_core.config import LocalPath, Section, suggest
from mgvr_core.datasets.benchmarks.benchmark import Benchmark
from mgvr_core.datasets.benchmarks.catalogue import NAMES, read_benchmark
from mgvr_core.datasets.benchmarks.check import Copy, check, list_warnings, protocol_rows
from mgvr_core.errors import MgvrError
from mgvr_core.files import replacing
from mgvr_core.identity import hash_file
from pipelines.runtime import main, summary

_QUERIES, _ABOUT = "test-queries.jsonl", "dataset.json"
_MANIFESTS = ("test.jsonl", "train.jsonl", "validation.jsonl")


class DatasetConfig(Section):
    """mgvr dataset."""

    name: str = Field(description=f"the benchmark: {', '.join(NAMES)}")
    annotations: LocalPath = Field(description="folder of the annotation files, or the file of the test split")
    videos: LocalPath | None = Field(
        None,
        description="folder of the videos, at any depth; none: read the annotations alone (a manifest: not needed)",
    )
    out: LocalPath = Field(description="folder of the manifests")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NAMES:
            raise ValueError(f"no benchmark of this name{suggest(name, NAMES) or '.'} There are: {', '.join(NAMES)}")
        return name


def dataset(config: DatasetConfig) -> Benchmark:
    """Read, check and write; raises MgvrError for annotations of another set, and where no test video is there."""
    benchmark = read_benchmark(config.name, Path(config.annotations))
    out = Path(config.out)
    _require_elsewhere(benchmark, out)
    looked = config.videos is not None or bool(benchmark.uris)
    copy = check(benchmark, None if config.videos is None else Path(config.videos)) if looked else None
    if copy is not None and not copy.pool:
        where = "where the manifest says" if config.videos is None else f"below {config.videos}"
        empty = f", and {len(copy.empty):,} of the files are empty (0 bytes)" if copy.empty else ""
        raise MgvrError(
            f"no video of the test split is there {where}: looked for names such as {benchmark.videos[0]}.mp4{empty}"
        )
    written = _write(benchmark, copy, out)
    rows = protocol_rows(benchmark, copy)
    with replacing(out / _ABOUT) as file:
        json.dump(_about(config.name, benchmark, copy, rows, written), file, indent=1, ensure_ascii=False)
    notes = enumerate([*benchmark.notes, *benchmark.training_notes], start=1)
    print(summary(f"dataset {config.name}", {**rows, **{f"note {number}": note for number, note in notes}}))
    print("\n".join(copy.summary() if copy else _unlooked(benchmark)))
    print(f"written to {out}: {', '.join([*written, _ABOUT])}")
    return benchmark


def _unlooked(benchmark: Benchmark) -> list[str]:
    return [
        "videos: not looked for; give --videos for that and for the manifests",
        *(f"warning: {warning}" for warning in list_warnings(benchmark)),
    ]


def _require_elsewhere(benchmark: Benchmark, out: Path) -> None:
    ours = {(out / name).resolve() for name in (*_MANIFESTS, _QUERIES)}
    for file in benchmark.files:
        if file.resolve() in ours:
            raise MgvrError(f"out: {out} holds {file.name}, which is read: choose another folder")


def _write(benchmark: Benchmark, copy: Copy | None, out: Path) -> list[str]:
    """Write the queries and, of the videos that are there, the manifests; what an earlier run left is replaced."""
    if (out / _ABOUT).exists():
        for name in _MANIFESTS:
            (out / name).unlink(missing_ok=True)
    _write_lines(
        out / _QUERIES,
        ({"id": query.id, "text": query.text, "relevant": query.relevant} for query in benchmark.queries),
    )
    if copy is None:
        return [_QUERIES]
    asked: dict[str, list[str]] = {video: [] for video in benchmark.videos}
    for query in benchmark.queries:
        for video in query.relevant:
            asked.setdefault(video, []).append(query.text)
    splits: Mapping[str, Mapping[str, Iterable[str]]] = {
        "test.jsonl": {video: asked[video] for video in benchmark.videos},
        "train.jsonl": benchmark.train,
        "validation.jsonl": benchmark.validation,
    }
    written = []
    for name, captions in splits.items():
        there = [video for video in captions if video in copy.files]
        if there:
            _write_lines(out / name, (_record(benchmark, copy, video, captions[video]) for video in there))
            written.append(name)
    return [*written, _QUERIES]


def _record(benchmark: Benchmark, copy: Copy, video: str, captions: Iterable[str]) -> dict[str, object]:
    record: dict[str, object] = {"id": video, "uri": copy.files[video], "captions": list(captions)}
    if video in benchmark.spans:
        start, end = benchmark.spans[video]
        record |= {"start": start} if math.isinf(end) else {"start": start, "end": end}
    return record


def _write_lines(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    with replacing(path) as file:
        file.writelines(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)


def _about(
    name: str, benchmark: Benchmark, copy: Copy | None, rows: Mapping[str, str], written: list[str]
) -> dict[str, Any]:
    """What dataset.json holds."""
    return {
        "name": name,
        "protocol": dict(rows),
        "counts": {
            "test": {"videos": len(benchmark.videos), "queries": len(benchmark.queries)},
            **{
                split: {"videos": len(captions), "captions": sum(map(len, captions.values()))}
                for split, captions in (("train", benchmark.train), ("validation", benchmark.validation))
            },
        },
        "check": copy
        and {
            "pool": copy.pool,
            "published_pool": benchmark.protocol.pool,
            "missing": {split: list(videos) for split, videos in copy.missing.items()},
            "empty": list(copy.empty),
            "unanswerable_queries": copy.unanswerable,
            "warnings": list(copy.warnings),
        },
        "warnings": list(copy.warnings) if copy else list_warnings(benchmark),
        "notes": list(benchmark.notes),
        "training_notes": list(benchmark.training_notes),
        "annotations": {file.name: hash_file(file) for file in benchmark.files},
        "written": written,
    }


def run(argv: Sequence[str] | None = None) -> int:
    """The command `mgvr dataset NAME …`, where NAME stands for `--name NAME`; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-") and Path(words[0]).suffix.lower() not in (".yaml", ".yml"):
        words[0] = f"--name={words[0]}"
    return main(DatasetConfig, dataset, "mgvr dataset", __doc__, words)


if __name__ == "__main__":
    sys.exit(run())
