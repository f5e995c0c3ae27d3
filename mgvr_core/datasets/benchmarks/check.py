"""A user's copy of a benchmark: which videos are there, which pool remains, and what a report says of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

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
    """Split -> ids without a file, in the order of the annotations; those of `empty` too."""
    empty: tuple[str, ...]
    """Ids of which all files hold 0 bytes: nothing can be decoded of them."""
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
    several the first by path is taken, and a warning says so. A URL counts as there; a file of 0 bytes does not, nor a
    link that leads nowhere. Raises MgvrError where the folder can't be listed, or where it is missing or not wanted.
    """
    splits = {"test": benchmark.videos, "train": tuple(benchmark.train), "validation": tuple(benchmark.validation)}
    splits = {split: videos for split, videos in splits.items() if videos}
    if benchmark.uris and folder is not None:
        raise MgvrError(f"a manifest says itself where its videos are: leave {folder} out")
    if benchmark.uris:
        found = {video: [uri] for video, uri in benchmark.uris.items()}
    elif folder is None:
        raise MgvrError("the folder of the videos is needed to say which of them are there")
    else:
        found = _find({video for videos in splits.values() for video in videos}, folder)
    files, empty, warnings = _whole(found)
    warnings = [*list_warnings(benchmark), *warnings]
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
    listed = {split: len(videos) for split, videos in splits.items()}
    return Copy(listed, files, missing, empty, unanswerable, tuple(warnings))


def list_warnings(benchmark: Benchmark) -> list[str]:
    """What is wrong with the length of the test list, if anything is: whoever has all its videos has another pool."""
    listed, published = len(benchmark.videos), benchmark.protocol.pool
    if published in (0, listed):  # nothing is published of a manifest
        return []
    size = f"{listed:,} of {published:,} videos" if listed < published else f"{listed:,} videos and not {published:,}"
    return [
        f"{benchmark.files[0].name} has {size}, so figures can't be compared with published ones: is it whole, and the "
        "right file?"
    ]


def _find(wanted: set[str], folder: Path) -> dict[str, list[str]]:
    """The files of the ids wanted, of each in the order of their paths."""
    found: dict[str, list[str]] = {}
    for path in walk(str(absolute(str(folder))), ("*",)):
        video = next((name for name in _names(path.rsplit("/", 1)[-1]) if name in wanted), None)
        if video is None:
            continue
        if not is_unicode(path):
            raise MgvrError(f"the name of {path!a} is not valid UTF-8: rename the folder")
        found.setdefault(video, []).append(path)
    return found


def _whole(found: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], tuple[str, ...], list[str]]:
    """Of the files of each id the first that holds anything; the ids that have empty ones alone; warnings of both."""
    sizes = {video: [(uri, _size_of(uri)) for uri in uris] for video, uris in found.items()}
    whole = {video: [uri for uri, size in uris if size] for video, uris in sizes.items()}
    several = [video for video, uris in whole.items() if len(uris) > 1]
    empty = tuple(video for video in found if not whole[video] and any(size == 0 for _, size in sizes[video]))
    warnings = []
    if several:
        one, other = whole[several[0]][:2]
        warnings.append(f"several files for {some(several)}: the first is taken, as {one}, and not {other}")
    if empty:
        warnings.append(f"empty files (0 bytes), which count as missing: {some(empty)}. Fetch them again")
    return {video: uris[0] for video, uris in whole.items() if uris}, empty, warnings


def _size_of(uri: str) -> int | None:
    """Bytes of a file, None where there is none; of a URL and of what is no file a number above 0."""
    if is_url(uri):
        return 1
    try:
        status = Path(uri).stat()
    except OSError:
        return None
    return status.st_size if S_ISREG(status.st_mode) else 1


def _names(file: str) -> Iterator[str]:
    """The ids that a file may stand for, the likeliest first."""
    yield file
    name = file
    while name.lower().endswith((*_SUFFIXES, ".")):
        name = name.rsplit(".", 1)[0]
        yield name


def protocol_rows(benchmark: Benchmark, copy: Copy | None = None) -> dict[str, str]:
    """What is known of a benchmark: name -> value. Without a copy nothing is said of the user's videos."""
    named = benchmark.protocol.training_list
    training = _size(benchmark.train)
    return evaluation_rows(benchmark, copy) | {
        "training": f"{named} list: {training}" if named else training,
        "validation": _size(benchmark.validation),
    }


def evaluation_rows(benchmark: Benchmark, copy: Copy | None = None) -> dict[str, str]:
    """Those of its rows that figures of the test split depend on."""
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
