"""A user's copy of a benchmark: which videos are there, which pool remains, and what a report says of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mgvr_core.datasets.benchmarks.assembling import some
from mgvr_core.datasets.benchmarks.benchmark import Benchmark
from mgvr_core.datasets.folders import VIDEO_SUFFIXES, walk
from mgvr_core.errors import MgvrError
from mgvr_core.uris import absolute, is_unicode, is_url

_SUFFIXES = (*VIDEO_SUFFIXES, ".3g2")  # DiDeMo has some


@dataclass(frozen=True)
class Copy:
    """What is there of a benchmark's videos."""

    listed: Mapping[str, int]
    """Split (test, train, validation) -> videos in the annotation files; splits without any are left out."""
    files: Mapping[str, str]
    """Id -> absolute path (of a manifest: or URL), for what was found."""
    missing: Mapping[str, tuple[str, ...]]
    """Split -> ids without a file, in the order of the annotations."""
    unanswerable: int
    """Queries of which no right video is there."""
    warnings: tuple[str, ...]

    @property
    def pool(self) -> int:
        """Videos of the test split that are there."""
        return self.listed["test"] - len(self.missing["test"])

    def summary(self) -> list[str]:
        """Lines to print: what is there of every split, and the warnings."""
        lines = []
        for split, listed in self.listed.items():
            lost = self.missing[split]
            there = f"{split}: {listed - len(lost):,} of {listed:,} videos are there"
            lines.append(f"{there}; missing: {some(lost)}" if lost else there)
        return [*lines, *(f"warning: {warning}" for warning in self.warnings)]


def check(benchmark: Benchmark, folder: Path | None = None) -> Copy:
    """Look for the benchmark's videos below a folder, or where a manifest says they are; nothing is opened.

    A file is a video's if its name is the id, alone or with one or more endings of videos (`a.mov.mp4`). Of
    several the first by path is taken, and a warning says so. A URL counts as there. Raises MgvrError where the folder
    can't be listed, or where it is missing or not wanted.
    """
    splits = {"test": benchmark.videos, "train": tuple(benchmark.train), "validation": tuple(benchmark.validation)}
    splits = {split: videos for split, videos in splits.items() if videos}
    warnings: list[str] = []
    if benchmark.uris and folder is not None:
        raise MgvrError(f"a manifest says itself where its videos are: leave {folder} out")
    if benchmark.uris:
        files = {video: uri for video, uri in benchmark.uris.items() if is_url(uri) or Path(uri).exists()}
    elif folder is None:
        raise MgvrError("the folder of the videos is needed to say which of them are there")
    else:
        files, warnings = _find({video for videos in splits.values() for video in videos}, folder)
    missing = {split: tuple(video for video in videos if video not in files) for split, videos in splits.items()}
    lost = set(missing["test"])
    unanswerable = sum(not any(video in files for video in query.relevant) for query in benchmark.queries)
    pool, published = len(benchmark.videos) - len(lost), benchmark.protocol.pool
    if published and pool != published:
        size = f"{pool:,} of {published:,}" if pool < published else f"{pool:,} and not {published:,}"
        warnings.append(f"the pool is {size} videos: figures can't be compared with published ones")
    if unanswerable:
        asked = len(benchmark.queries)
        warnings.append(f"{unanswerable:,} of {asked:,} queries ask for missing videos: each counts as a miss")
    return Copy({split: len(videos) for split, videos in splits.items()}, files, missing, unanswerable, tuple(warnings))


def _find(wanted: set[str], folder: Path) -> tuple[dict[str, str], list[str]]:
    """The files of the ids wanted, and a warning where one has several."""
    found: dict[str, str] = {}
    several: dict[str, str] = {}
    for path in walk(str(absolute(str(folder))), ("*",)):
        video = next((name for name in _names(path.rsplit("/", 1)[-1]) if name in wanted), None)
        if video is None:
            continue
        if not is_unicode(path):
            raise MgvrError(f"the name of {path!a} is not valid UTF-8: rename the folder")
        if found.setdefault(video, path) != path:
            several.setdefault(video, path)
    warnings = []
    if several:
        one, other = next(iter(several.items()))
        warnings.append(f"several files for {some(several)}: the first is taken, as {found[one]}, and not {other}")
    return found, warnings


def _names(file: str) -> Iterator[str]:
    """The ids that a file may stand for, the likeliest first."""
    yield file
    name = file
    while name.lower().endswith((*_SUFFIXES, ".")):
        name = name.rsplit(".", 1)[0]
        yield name


def protocol_rows(benchmark: Benchmark, copy: Copy | None = None) -> dict[str, str]:
    """What a report prints of a benchmark: name -> value. Without a copy nothing is said of the user's videos."""
    protocol = benchmark.protocol
    rows = {
        "benchmark": protocol.title,
        "annotation files": ", ".join(file.name for file in benchmark.files),
        "captions of a video": protocol.captions,
        "text tokens": str(protocol.words),
        "frames": str(protocol.frames),
        "pool": _pool(benchmark, copy),
        "queries": _queries(benchmark, copy),
        "text to video": "averaged over queries",
        "video to text": protocol.video_to_text,
        "training": _size(benchmark.train),
        "validation": _size(benchmark.validation),
    }
    return rows | ({"note": protocol.note} if protocol.note else {})


def _pool(benchmark: Benchmark, copy: Copy | None) -> str:
    pool, published = len(benchmark.videos) if copy is None else copy.pool, benchmark.protocol.pool
    if pool == published:
        return f"{pool:,} videos, as published"
    size = (
        f"{pool:,} videos"
        if copy is None or not copy.missing["test"]
        else f"{pool:,} of {copy.listed['test']:,} videos"
    )
    return f"{size}; published: {published:,}, so figures can't be compared" if published else size


def _queries(benchmark: Benchmark, copy: Copy | None) -> str:
    distinct = len({query.text for query in benchmark.queries})
    size = f"{len(benchmark.queries):,}" + (f" ({distinct:,} distinct)" if distinct < len(benchmark.queries) else "")
    if copy is None or not copy.unanswerable:
        return size
    return f"{size}; {copy.unanswerable:,} ask for missing videos and count as misses, which common scripts drop"


def _size(captions: Mapping[str, tuple[str, ...]]) -> str:
    texts = sum(map(len, captions.values()))
    return f"{len(captions):,} videos, {texts:,} captions" if captions else "none in these files"
