"""What a benchmark is once its annotation files are read: who asks, what is right, and under which rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Protocol:
    """The rules under which figures of a benchmark can be compared (docs/benchmarks.md)."""

    name: str
    """As the command line takes it: msrvtt-1ka."""
    title: str
    captions: str
    """Of a test video, and what becomes of them: `one`, `20, each a query`, `all joined into one query`."""
    words: int
    """Text tokens that a query is read to."""
    frames: int
    """Frames of a video."""
    pool: int
    """Videos that the published figures are over; 0 where none are published."""
    video_to_text: str
    """What is ranked for a video: `single captions`, or `captions in groups by video, a group by its best`."""
    note: str = ""
    training_list: str = ""
    """Which of several training lists in use is meant: `9k`."""


@dataclass(frozen=True)
class Query:
    """One text that asks, and the ids of its right videos."""

    id: str
    text: str
    relevant: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's test split, and what it has to train with."""

    protocol: Protocol
    videos: tuple[str, ...]
    """Ids of the test pool, in the order of the annotation file: the columns of a similarity matrix."""
    queries: tuple[Query, ...]
    """In the order of the annotation file: the rows of a similarity matrix."""
    train: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Id -> captions of the training videos; empty where the files given have none."""
    validation: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    spans: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Id -> (start, end) in seconds, for videos that are a part of their file; an infinite end is the file's own."""
    uris: Mapping[str, str] = field(default_factory=dict)
    """Id -> absolute path or URL, where the annotation files say where the videos lie (a manifest does)."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know of the test split's files: missing captions, other lists."""
    training_notes: tuple[str, ...] = ()
    """What who trains must know of the other files: no figure of the test split depends on it."""
    files: tuple[Path, ...] = ()
    """The annotation files that were read, in the order of reading: the first is the test split's."""
