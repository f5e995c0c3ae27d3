"""The videos of a corpus: from a folder, a glob, a manifest file or one video to a table with one row a video."""

from __future__ import annotations

import glob
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
from pydantic import field_validator

from mgvr_core.config import Section
from mgvr_core.datasets.buckets import fetch, find
from mgvr_core.datasets.folders import VIDEO_SUFFIXES, has_suffix, matches, walk
from mgvr_core.datasets.tables import SUFFIXES, Rows, read_rows
from mgvr_core.errors import MgvrError
from mgvr_core.uris import absolute, fragment, is_unicode, is_url, relative, resolve, to_local

VIDEOS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("start", pa.float64()),
        pa.field("end", pa.float64()),
    ]
)


class ColumnsConfig(Section):
    """The names of a manifest's columns; null leaves one out."""

    id: str | None = "id"
    """The video's own id; the others get theirs as `ids` says."""
    uri: str = "uri"
    """A path, relative to the manifest or to `root`, or a URL."""
    caption: str | None = "caption"
    """One caption, or a list of them. Rows of the same video are merged, so a row a caption is fine."""
    captions: str | None = "captions"
    """As `caption`; both may be there."""
    start: str | None = "start"
    """Seconds from the beginning of the file."""
    end: str | None = "end"
    """Seconds from the beginning of the file."""


class CorpusConfig(Section):
    """Where the videos are."""

    uri: str
    """A folder, a glob, a manifest (.csv, .tsv, .parquet, .jsonl), one video file, or a prefix, glob or manifest in an
    object store (s3://, gs://)."""
    root: str | None = None
    """What the relative uris of a manifest start from: a folder or a URL. Default: the manifest's own folder."""
    columns: ColumnsConfig = ColumnsConfig()
    ids: Literal["content", "path"] = "content"
    """The id of a video that has none: the hash of its content, or its path below the folder (or root)."""
    extensions: tuple[str, ...] = VIDEO_SUFFIXES
    """Which files of a folder are videos; `["*"]` for all of them."""

    @field_validator("extensions")
    @classmethod
    def _as_suffixes(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name if name == "*" else f".{name.lower().removeprefix('.')}" for name in extensions)


class Video(NamedTuple):
    """One row: a file, or the part of it from `start` to `end` seconds."""

    id: str | None
    """None: the hash of the content, which whoever reads the file assigns."""
    uri: str
    """An absolute local path, or a URL."""
    start: float | None = None
    end: float | None = None


def list_videos(config: CorpusConfig) -> pa.Table:
    """The corpus as a table with the schema `VIDEOS`, one row a video, sorted by uri and start.

    Columns: id (null: the content hash, assigned when the file is read), uri (absolute local path or URL), captions,
    start and end (seconds; null: the file's own). Nothing is opened but a manifest: a video that is not there comes to
    light where it is read. Raises MgvrError, with the file and row, for whatever can't be understood.
    """
    name = to_local(config.uri)
    if is_url(name):
        return _table(_list_bucket(config, name))
    path = absolute(name)
    if path.is_dir():
        return _table(_files(config, str(path), walk(str(path), config.extensions)))
    if path.suffix.lower() in SUFFIXES:
        return _table(_read_manifest(config, path))
    if path.exists():
        if not has_suffix(path.name, config.extensions):
            known = ", ".join([*SUFFIXES, *config.extensions])
            raise MgvrError(f"{path} is neither a manifest nor a video: its name must end in one of {known}")
        return _table(_files(config, str(path.parent), [str(path)]))
    if glob.has_magic(name):
        base, files = matches(name)
        return _table(_files(config, base, files))
    raise MgvrError(f"the corpus {path} does not exist")


def _list_bucket(config: CorpusConfig, url: str) -> dict[Video, list[str]]:
    if url.lower().endswith(SUFFIXES):
        with tempfile.TemporaryDirectory(prefix="mgvr-") as folder:
            copy = fetch(url, Path(folder))
            root = url.rsplit("/", 1)[0] if config.root is None else config.root
            try:
                return _read_manifest(config.model_copy(update={"root": root}), copy)
            except MgvrError as error:
                raise MgvrError(str(error).replace(str(copy), url)) from None
    base, found = find(url, config.extensions)
    return _files(config, base, found)


def _files(config: CorpusConfig, base: str, files: Iterable[str]) -> dict[Video, list[str]]:
    found: dict[Video, list[str]] = {}
    for uri in files:
        if not is_unicode(uri):
            raise MgvrError(f"the name of {uri!a} is not valid UTF-8: rename it")
        found[Video(relative(uri, base) if config.ids == "path" else None, uri)] = []
    if not found:
        sought = "" if glob.has_magic(config.uri) else f" (looked for {', '.join(config.extensions)})"
        raise MgvrError(f"no video found in {config.uri}{sought}")
    return found


def _read_manifest(config: CorpusConfig, file: Path) -> dict[Video, list[str]]:
    rows = read_rows(file, config.columns, required=("uri",))
    root = _root(config, file)
    found: dict[Video, list[str]] = {}
    owners: dict[str, tuple[Video, int]] = {}
    names: dict[tuple[str, float | None, float | None], tuple[str | None, int]] = {}
    cells = zip(
        *(rows.texts("id"), rows.texts("uri"), rows.floats("start"), rows.floats("end")),
        *(rows.text_lists("caption"), rows.text_lists("captions")),
        strict=True,
    )
    for row, (name, uri, start, end, caption, captions) in enumerate(cells):
        if uri is None:
            raise rows.error(row, "the uri is empty: fill it in or remove the row")
        _check_times(rows, row, start, end)
        uri = resolve(uri, root)
        if name is None and config.ids == "path":
            name = relative(uri, root) + fragment(start, end)
        video = Video(name, uri, start, end)
        other, first = names.setdefault(video[1:], (name, row))
        if other != name:
            raise rows.error(row, f"{uri} is {_called(name)} here, and {_called(other)} in {rows.place(first)}")
        if name is not None:
            owner, first = owners.setdefault(name, (video, row))
            if owner != video:
                there = f"{rows.place(first)}, for another video: {owner.uri}"
                raise rows.error(row, f"the id {name!r} is taken by {there}")
        found.setdefault(video, []).extend(caption + captions)
    if not found:
        raise MgvrError(f"{file} holds no rows: a manifest needs at least one video")
    return found


def _called(name: str | None) -> str:
    return "without an id" if name is None else f"the video {name!r}"


def _check_times(rows: Rows, row: int, start: float | None, end: float | None) -> None:
    if start is not None and start < 0:
        raise rows.error(row, f"start must be 0 or later, not {start:g}")
    if end is not None and end <= (start or 0.0):
        raise rows.error(row, f"end ({end:g} s) must be after start ({start or 0.0:g} s)")


def _root(config: CorpusConfig, file: Path) -> str:
    root = str(file.parent) if config.root is None else to_local(config.root)
    if is_url(root):
        return root.rstrip("/")
    if not Path(root).is_dir():
        raise MgvrError(f"the root {root} is not a folder")
    return str(absolute(root))


def _table(videos: dict[Video, list[str]]) -> pa.Table:
    def key(video: Video) -> tuple[object, ...]:
        return video.uri, video.start or 0.0, math.inf if video.end is None else video.end, video.id or ""

    rows = sorted(videos, key=key)
    ids, uris, starts, ends = zip(*rows, strict=True)
    return pa.table([ids, uris, [videos[video] for video in rows], starts, ends], schema=VIDEOS)
