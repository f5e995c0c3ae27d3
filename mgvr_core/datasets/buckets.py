"""The files of a corpus elsewhere: in an object store below a prefix, those that a pattern matches, or one."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mgvr_core.datasets.folders import has_suffix
from mgvr_core.errors import MgvrError
from mgvr_core.storage import STORES, filesystem

_WEB = ("http", "https")


def find(url: str, extensions: tuple[str, ...]) -> tuple[str, list[str]]:
    """The address that relative names start from, and every file below a prefix (or matching a pattern), sorted.

    Hidden names are left out, as in a folder. Raises MgvrError where nothing can be listed there.
    """
    scheme = url.split("://", 1)[0]
    url = url.rstrip("/")
    parent = url.rsplit("/", 1)[0]
    if scheme in _WEB and has_suffix(urlsplit(url).path, extensions):
        return parent, [url]
    if scheme not in STORES:
        known = ", ".join(f"{known}://" for known in STORES)
        raise MgvrError(
            f"the corpus {url} can't be listed, only folders and {known} can: write the addresses of its videos into "
            "a manifest file"
        )
    files = filesystem(scheme)
    try:
        pattern = glob.has_magic(url) and not files.exists(url)
        found: Mapping[str, Mapping[str, Any]] = (files.glob if pattern else files.find)(url, detail=True)
    except Exception as error:  # every store's client raises its own
        raise MgvrError(f"the corpus {url} can't be listed: {type(error).__name__}: {error}") from None
    uris = sorted(f"{scheme}://{name}" for name, entry in found.items() if entry["type"] == "file" and name[-1] != "/")
    if pattern:
        base = url[: next(at for at, letter in enumerate(url) if letter in "*?[")].rsplit("/", 1)[0]
        return base, [uri for uri in uris if not _hidden(uri, base)]
    base = parent if uris == [url] else url
    return base, [uri for uri in uris if has_suffix(uri, extensions) and not _hidden(uri, base)]


def fetch(url: str, folder: Path) -> Path:
    """A copy of a manifest, under its own name. Raises MgvrError where it can't be had."""
    scheme = url.split("://", 1)[0]
    if scheme not in (*STORES, *_WEB):
        known = ", ".join(f"{known}://" for known in (*STORES, *_WEB))
        raise MgvrError(f"cannot read {url}: a manifest is a file, or lies at {known}")
    files, copy = filesystem(scheme), folder / url.rsplit("/", 1)[-1]
    try:
        files.get_file(url, str(copy))
    except Exception as error:  # every store's client raises its own
        raise MgvrError(f"cannot read {url}: {type(error).__name__}: {error}") from None
    return copy


def _hidden(uri: str, base: str) -> bool:
    return "/." in uri.removeprefix(base)
