"""Which files of a feature set nothing needs any more, and how they go.

Three things need a file: a snapshot that is kept, a commit that is about to name it, and a run whose work no snapshot
names yet. The last is told by age alone.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from mgvr_core.features import pending
from mgvr_core.features.notices import VALID_S, notice, notices
from mgvr_core.features.snapshot import snapshot_name
from mgvr_core.storage import Entry, Storage

Versions = Callable[[], Mapping[int, Entry]]
"""The files of all snapshots by number, as they are now."""
Needs = Callable[[int], set[str]]
"""The files that the snapshot of a number needs."""

# Codebooks are not among them: a run that has yet to write its first shard counts on them, and they are small.
_FOLDERS = ("shards", "corpus", "failures", "scratch", "pending", "hashed")
_OURS = re.compile(r"/[0-9a-f]{24}-?[0-9a-f]{8}(\.parquet|\.json)?$")
"""Names that we give: a user may keep videos in a folder `corpus` beside the shards."""


@dataclass(frozen=True)
class Rubbish:
    """What gc removes."""

    files: tuple[str, ...]
    bytes: int
    kept: tuple[int, ...] = ()
    """Numbers of the snapshots that stay."""


def find(storage: Storage, versions: Versions, needs: Needs, keep: int, older_than_s: float) -> Rubbish:
    """What no kept snapshot names and nothing has touched for `older_than_s` seconds.

    The last `keep` snapshots are kept, and those that were current within that time: a reader may be at one. The work
    of runs that is not committed is spared as a whole as long as it grows: its first part may be old by its end.
    """
    before = time.time() - older_than_s
    # Before the snapshots are read: what one names that comes later is younger than this list, or said to be landing.
    listed = [entry for folder in _FOLDERS for entry in storage.entries(folder) if _OURS.search(entry.name)]
    needed = _unfinished(storage, before)
    numbered = sorted(versions().items())
    last = {number for number, _ in numbered[-keep:]}
    old = {
        number: entry
        for (number, entry), (_, successor) in pairwise(numbered)
        if number not in last and successor.modified < before
    }
    kept = tuple(number for number, _ in numbered if number not in old)
    for number in kept:
        needed |= needs(number)
    unneeded = [entry for entry in listed if entry.name not in needed and entry.modified < before]
    unneeded += [
        entry
        for kind in ("landing", "leaving")
        for entry in storage.entries(kind)
        if entry.modified < min(before, time.time() - VALID_S)
    ]
    unneeded += old.values()
    return Rubbish(tuple(entry.name for entry in unneeded), sum(entry.bytes for entry in unneeded), kept)


def remove(storage: Storage, versions: Versions, needs: Needs, rubbish: Rubbish) -> None:
    """Remove it, but for what a commit has named meanwhile or is about to name."""
    with notice(storage, "leaving", rubbish.files):
        landing = notices(storage, "landing")  # before the snapshots: what has landed since is in one
        numbers = versions()
        needed = {name for found in landing if found.number not in numbers for name in found.files}
        for number in numbers:
            if snapshot_name(number) not in rubbish.files:
                needed |= needs(number)
        # Snapshots first: one whose shards are gone must not be found.
        for name in sorted(rubbish.files, key=lambda name: not name.startswith("snapshots/")):
            if name.startswith("snapshots/"):
                storage.put(name, b"")  # the number stays taken
            elif name not in needed:
                storage.remove(name)


def _unfinished(storage: Storage, before: float) -> set[str]:
    """The records of pending work and their shards, of the runs whose youngest record is not older than `before`."""
    found: list[tuple[pending.Pending, float]] = []
    for entry in storage.entries("pending"):
        with contextlib.suppress(FileNotFoundError):  # committed meanwhile
            record = pending.read(entry.name, storage.read(entry.name))
            if record is not None:
                found.append((record, entry.modified))
    growing = {record.run for record, modified in found if modified >= before}
    work = [record for record, _ in found if record.run in growing]
    return {record.name for record in work} | {record.shard.path for record in work if record.shard}
