"""How commits and gc keep out of each other's way without a lock.

A commit first says which files it is about to name, and then looks which are about to be removed; a gc first says which
files it is about to remove, and then looks which are about to be named. However the two interleave, one of them sees
the other: the file stays, or the commit is told that it goes.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from secrets import token_hex
from typing import Literal, NamedTuple

from mgvr_core.storage import Storage

Kind = Literal["landing", "leaving"]
"""landing: a commit is about to name the files. leaving: a gc is about to remove them."""

VALID_S = 24 * 3600.0
"""A notice stands for seconds or minutes; one that is older than this is of a process that was killed."""


class Notice(NamedTuple):
    """What a commit or a gc has said."""

    number: int
    """Of the snapshot that the commit tries to make: where there is one of that number, the notice is void."""
    files: frozenset[str]


@contextlib.contextmanager
def notice(storage: Storage, kind: Kind, files: Iterable[str], number: int = 0) -> Iterator[None]:
    """Say so for the length of the block."""
    name = f"{kind}/{number:08d}-{token_hex(8)}.json"
    storage.put(name, json.dumps(sorted(files)).encode())
    try:
        yield
    finally:
        storage.remove(name)


def notices(storage: Storage, kind: Kind) -> list[Notice]:
    """What has been said and is not over."""
    found = []
    for entry in storage.entries(kind):
        if entry.modified >= time.time() - VALID_S:
            with contextlib.suppress(FileNotFoundError):  # over meanwhile
                files = frozenset(json.loads(storage.read(entry.name)))
                found.append(Notice(int(entry.name.rsplit("/", 1)[-1].split("-")[0]), files))
    return found
