"""Contents that a run has read and not yet committed: who takes over does not read the same files again.

hashed/<random>.json   uri, size, version (time of change or etag) and content hash of some files
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from secrets import token_hex

from mgvr_core.corpus.files import Look
from mgvr_core.corpus.plan import Comparison, Content
from mgvr_core.storage import Storage


def keep(storage: Storage, compared: Comparison, contents: Mapping[str, Content]) -> None:
    """Write down beside a feature set what has been read, by uri; files that could not be read are left out."""
    looks = _looks(compared)
    rows = [
        [uri, looks[uri].size, looks[uri].version, content.outcome]
        for uri, content in contents.items()
        if isinstance(content.outcome, str)
    ]
    storage.put(f"hashed/{token_hex(16)}.json", json.dumps(rows).encode())


def names(storage: Storage) -> tuple[str, ...]:
    """The files of all readings that lie about."""
    return tuple(entry.name for entry in storage.entries("hashed"))


def known(storage: Storage, files: Iterable[str], compared: Comparison) -> dict[str, Content]:
    """The contents of those files to be read that look as they did when they were read before, by uri."""
    looks = _looks(compared)
    found = {}
    for name in files:
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):  # forgotten meanwhile, or no such file
            for uri, size, version, digest in json.loads(storage.read(name)):
                if looks.get(uri) == Look(size, version):
                    found[uri] = Content(digest)
    return found


def forget(storage: Storage, files: Iterable[str]) -> None:
    """Remove readings that a snapshot has taken up. What can't be removed now goes the next time."""
    for name in files:
        with contextlib.suppress(OSError):
            storage.remove(name)


def _looks(compared: Comparison) -> dict[str, Look]:
    return {video.key.uri: video.look for video in compared.to_read if isinstance(video.look, Look)}
