"""Where a file is: a local path, a file:// URL, or the URL of something elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def is_url(uri: str) -> bool:
    """Whether it names a scheme (`s3://`, `https://`)."""
    return _URL.match(uri) is not None


def to_local(uri: str) -> str:
    """The path behind a file:// URL; paths and other URLs as they are."""
    if not uri.lower().startswith("file://"):
        return uri
    # Not urlsplit: a bare `?` or `#` is part of the file's name here.
    return unquote(uri[len("file://") :].removeprefix("localhost"))


def resolve(uri: str, root: str) -> str:
    """An absolute path or a URL, from a uri that may be relative to `root` (an absolute folder or a URL)."""
    local = to_local(uri)
    if is_url(local):
        return local
    return f"{root}/{local}" if is_url(root) else str(Path(root) / local)


def relative(uri: str, root: str) -> str:
    """A resolved uri without the root that it lies below; whole where it lies elsewhere."""
    return uri.removeprefix(root.rstrip("/") + "/")


def fragment(start: float | None, end: float | None) -> str:
    """The part of a file from `start` to `end` seconds as W3C Media Fragments write it: `#t=3,7.5`; empty for all."""
    if not start and end is None:
        return ""
    return f"#t={start or 0.0:.12g}" + ("" if end is None else f",{end:.12g}")


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: file names and JSON escapes can hold halves of characters."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)
