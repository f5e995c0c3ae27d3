"""The files of a folder and of a glob pattern."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from mgvr_core.errors import MgvrError
from mgvr_core.uris import absolute

VIDEO_SUFFIXES = (
    ".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".h264", ".ivf", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg",
    ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip


def has_suffix(name: str, extensions: tuple[str, ...]) -> bool:
    """Whether a file name ends in one of the extensions, in any case; `*` stands for every name."""
    return "*" in extensions or name.lower().endswith(extensions)


def walk(folder: str, extensions: tuple[str, ...]) -> Iterator[str]:
    """Every file below a folder with one of the extensions, in the order of their names.

    Links to folders are followed, but never back into a folder that they lie in. Names that begin with a dot are left
    out: half-written copies and the companions that some systems write beside each file. A link that leads nowhere is
    listed, so that the run that reads it can say so.
    """
    yield from _walk(folder, extensions, frozenset())


def _walk(folder: str, extensions: tuple[str, ...], above: frozenset[tuple[int, int]]) -> Iterator[str]:
    try:
        status = Path(folder).stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise MgvrError(f"cannot list the folder {folder}: {error.strerror}") from None
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry.path, extensions, above | {here})
        elif has_suffix(entry.name, extensions):
            yield entry.path  # a text: a Path for each of a million names takes seconds


def matches(pattern: str) -> tuple[str, list[str]]:
    """The folder that a glob pattern starts from and the files it matches (`**`: any depth; no hidden names)."""
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts[:-1])
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 (Path.glob lists hidden files, and for `**` folders alone)
    # Absolute only now: the working folder's own name may hold a bracket.
    return str(absolute(str(Path(*fixed)))), [str(absolute(name)) for name in sorted(found) if not Path(name).is_dir()]
