"""Where a file is: a local path, a file:// URL, or the URL of something elsewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_REDUNDANT = re.compile(r"//|/\.?(/|$)")


def is_url(uri: str) -> bool:
    """Whether it names a scheme (`s3://`, `https://`)."""
    return _URL.match(uri) is not None


def to_local(uri: str) -> str:
    """The path behind a file:// URL; paths as they are, and other URLs with their scheme in lower case."""
    scheme = _URL.match(uri)
    if scheme is None:
        return uri
    rest = uri[scheme.end() :]
    if scheme.group().lower() != "file://":
        return scheme.group().lower() + rest
    # Not urlsplit: a bare `?` or `#` is part of the file's name here.
    return unquote(rest.removeprefix("localhost"))


def resolve(uri: str, root: str) -> str:
    """An absolute path or a URL, from a uri that may be relative to `root` (an absolute folder or a URL)."""
    local = to_local(uri)
    if is_url(local) or (is_url(root) and local.startswith("/")):
        return local
    if is_url(root):
        return _below(local, root)
    joined = os.path.join(root, local)  # noqa: PTH118 - a Path for each of a million names takes seconds
    return str(Path(joined)) if _REDUNDANT.search(joined) else joined


def _below(name: str, root: str) -> str:
    # An object store has no `.` and no `..`, and lists name files so.
    while name.startswith(("./", "../")):
        step, _, name = name.partition("/")
        if step == ".." and root.count("/") > 2:
            root = root.rsplit("/", 1)[0]
    return f"{root}/{name}"


def absolute(name: str) -> Path:
    """The absolute path of a name, the same one wherever it is called from: `..` is followed, other links are kept."""
    path = Path(name).absolute()
    parents = [at for at, part in enumerate(path.parts, start=1) if part == ".."]
    if not parents:
        return path
    return Path(*path.parts[: parents[-1]]).resolve().joinpath(*path.parts[parents[-1] :])


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
