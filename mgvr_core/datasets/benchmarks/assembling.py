"""From captions by video to a benchmark, with what must hold in every one of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mgvr_core.datasets.benchmarks.benchmark import Benchmark, Protocol, Query
from mgvr_core.datasets.benchmarks.files import Annotations
from mgvr_core.errors import MgvrError

Captions = Mapping[str, Sequence[str]]
SINGLE = "single captions"
GROUPS = "captions in groups by video, a group by its best"

_NAMED = 5


def queries_of(captions: Captions) -> list[Query]:
    """Every caption as a query, captions that repeat too; its id is the video's, with `#0`, `#1` ... among several."""
    return [
        Query(video if len(texts) == 1 else f"{video}#{number}", text, (video,))
        for video, texts in captions.items()
        for number, text in enumerate(texts)
    ]


def paragraph(sentences: Iterable[str]) -> str:
    """All sentences of a video as one text, in the order of the file."""
    return " ".join(sentences)


def of_listed(videos: Sequence[str], captions: Captions, listed: Path, captioned: Path) -> dict[str, Sequence[str]]:
    """The captions of a test list's videos, in its order; raises MgvrError where a video has none."""
    bare = [video for video in videos if not captions.get(video)]
    if bare:
        raise MgvrError(
            f"{captioned} has no caption for {some(bare)}, which {listed.name} lists: is one of them of another set?"
        )
    return {video: captions[video] for video in videos}


def as_far_as_captioned(
    videos: Sequence[str], captions: Captions, listed: Path, captioned: Path
) -> tuple[dict[str, Sequence[str]], list[str]]:
    """The captions of a training list's videos, and a note where some have none: those are left out."""
    bare = [video for video in videos if not captions.get(video)]
    notes = [f"{listed.name}: left out, without a caption in {captioned.name}: {some(bare)}"] if bare else []
    return {video: captions[video] for video in videos if captions.get(video)}, notes


def some(ids: Collection[str]) -> str:
    """How many videos, and the first of them by name: `12 videos (a, b, c, d, e and 7 more)`."""
    shown = ", ".join(list(ids)[:_NAMED])
    more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
    return f"{len(ids):,} video{'s' if len(ids) > 1 else ''} ({shown}{more})"


def assemble(
    protocol: Protocol,
    source: Annotations,
    queries: Sequence[Query],
    videos: Sequence[str],
    train: Captions | None = None,
    validation: Captions | None = None,
    notes: Sequence[str] = (),
    spans: Mapping[str, tuple[float, float]] | None = None,
    uris: Mapping[str, str] | None = None,
    training_notes: Sequence[str] = (),
) -> Benchmark:
    """The benchmark; raises MgvrError for an id that stands twice, and for a test video that another split has too.

    The test split's file is the first that `source` read.
    """
    file = source.read[0]
    _require_unique([query.id for query in queries], "query", file)
    _require_unique(videos, "video", file)
    pool = set(videos)
    for split, captions in (("training", train or {}), ("validation", validation or {})):
        both = [video for video in captions if video in pool]
        if both:
            raise MgvrError(f"{file}: {some(both)} of the test split are in the {split} split too: wrong list?")
    return Benchmark(
        protocol=protocol,
        videos=tuple(videos),
        queries=tuple(queries),
        train=_frozen(train),
        validation=_frozen(validation),
        spans=dict(spans or {}),
        uris=dict(uris or {}),
        notes=tuple(notes),
        training_notes=tuple(training_notes),
        files=tuple(dict.fromkeys(source.read)),
    )


def _require_unique(ids: Sequence[str], what: str, file: Path) -> None:
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise MgvrError(f"{file}: the {what} {one!r} is there twice: keep one of its rows")
        seen.add(one)


def _frozen(captions: Captions | None) -> dict[str, tuple[str, ...]]:
    return {video: tuple(texts) for video, texts in (captions or {}).items()}
