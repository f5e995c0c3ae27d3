"""What a snapshot says of its corpora: every listed video, where its features are, or why it has none.

    sources    one row for every listed file (or segment): what it looked like, its content hash, its id, and the shard
               and row of its features. Exact duplicates are several sources with one id.
    failures   one row for every source without features: stage, kind, message, attempts

`fold` is the whole rule of what a run makes of a set. It is a function of the set as it is at the moment of the commit,
so that two runs at once can land one after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mgvr_core.errors import JobError, MgvrError


class Key(NamedTuple):
    """Which listed video: a file, or the part of it from `start` to `end` seconds, of one corpus."""

    corpus: str
    uri: str
    start: float | None = None
    end: float | None = None


class Place(NamedTuple):
    """Where a video's features are."""

    shard: str
    row: int


@dataclass(frozen=True, slots=True)
class Source:
    """One listed video as a run found it."""

    key: Key
    id: str | None
    """None: it could not be read, and the user gave no id."""
    content_hash: str | None
    size: int | None
    version: str | None
    """What changes when the file does, short of reading it: its time of change, or an object's etag."""
    place: Place | None = None
    """None: no features; the failures say why."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a listed video has no features."""

    key: Key
    id: str | None
    stage: str
    kind: str
    message: str
    attempts: int
    decoder: str
    at: str
    """When it was tried last, ISO 8601 in UTC."""

    def after(self, before: Failure | None) -> Failure:
        """With the attempts of an earlier failure of the same video counted in."""
        return (
            self if before is None or before.id != self.id else replace(self, attempts=self.attempts + before.attempts)
        )


@dataclass(frozen=True)
class ShardInfo:
    """One immutable file of the set."""

    path: str
    """Relative to the set's root."""
    rows: int
    bytes: int
    sha256: str
    removed: tuple[int, ...] = ()
    """Rows that are no longer part of the set, ascending: deleted, changed, or encoded twice."""

    @property
    def live(self) -> int:
        """Rows that are part of the set."""
        return self.rows - len(self.removed)

    @property
    def live_rows(self) -> NDArray[np.int64]:
        """Which they are, (live,) ascending."""
        return np.setdiff1d(np.arange(self.rows), self.removed)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ShardInfo:
        """From a manifest's entry."""
        return cls(**{**values, "removed": tuple(values.get("removed", ()))})

    def to_json(self) -> dict[str, Any]:
        """As a manifest's entry."""
        return asdict(self)


@dataclass(frozen=True)
class Contents:
    """A whole version of the set, apart from the features themselves."""

    sources: Mapping[Key, Source] = field(default_factory=dict)
    failures: Mapping[Key, Failure] = field(default_factory=dict)
    shards: tuple[ShardInfo, ...] = ()


@dataclass(frozen=True)
class Change:
    """What a run found: to be folded into whatever the set is by then."""

    sources: Sequence[Source] = ()
    """Listed videos that are new, or not as the set has them."""
    gone: Sequence[Source] = ()
    """Videos that are listed no more, as the set had them."""
    failures: Sequence[Failure] = ()
    """Of `sources` without a place."""
    shards: Sequence[ShardInfo] = ()
    """All shards that a place in `sources` may point into."""


def now() -> str:
    """The time as a failure and a snapshot keep it: ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def fold(head: Contents, change: Change) -> Contents:
    """The set after the change. Raises JobError where another run has given an id to other content meanwhile.

    What other runs have landed since this one looked is respected: a video that is gone goes only if it is still what
    this run saw; features of the same file outlive a failure; and an id has one place, so where two runs encoded the
    same content, the first to land stays.
    """
    before = head.sources
    found = [source for source in change.sources if not _outlives(before.get(source.key), source)]
    touched = {source.key for source in found}
    gone = {source.key for source in change.gone if _same(before.get(source.key), source)}
    kept = {key: source for key, source in before.items() if key not in touched and key not in gone}
    held = {source.id: source for source in kept.values() if source.place}
    landed = {(source.id, source.content_hash): source.place for source in before.values() if source.place}
    sources: dict[Key, Source] = dict(kept)
    for source in found:
        if source.place:
            source = replace(source, place=landed.get((source.id, source.content_hash), source.place))
            owner = held.setdefault(source.id, source)
            if owner.content_hash != source.content_hash:
                raise JobError(id_clash(source, owner))
            source = replace(source, place=owner.place)
        sources[source.key] = source
    failures = {key: failure for key, failure in head.failures.items() if key in kept}
    failures.update({failure.key: failure for failure in change.failures if failure.key in touched})
    return Contents(sources, failures, _named(sources.values(), [*head.shards, *change.shards]))


def _same(now: Source | None, seen: Source) -> bool:
    """Whether a source is still what a run saw. Its features may have been moved to another shard meanwhile."""
    if now is None or (now.place is None) != (seen.place is None):
        return False
    return replace(now, place=None) == replace(seen, place=None)


def _outlives(known: Source | None, found: Source) -> bool:
    """Whether the set has features of the very file that a run failed to encode: another run has landed them."""
    if known is None or known.place is None or found.place is not None:
        return False
    if found.content_hash is not None:
        return (found.id, found.content_hash) == (known.id, known.content_hash)
    # It could not be read, and perhaps not even be looked at.
    looks = (found.size, found.version) in ((None, None), (known.size, known.version))
    return looks and found.id in (None, known.id)


def id_clash(source: Source, owner: Source) -> str:
    """Two contents under one id, as a message."""
    return (
        f"the id {source.id!r} of {source.key.uri} is taken by {owner.key.uri} ({owner.key.corpus}), which has other "
        "content: an id stands for one video of the set. Change the id, or encode one of them into another --out."
    )


def _named(sources: Iterable[Source], shards: Iterable[ShardInfo]) -> tuple[ShardInfo, ...]:
    """The shards that a source points into, in the order of their names, with the rows that none points to."""
    live: dict[str, set[int]] = defaultdict(set)
    for source in sources:
        if source.place:
            live[source.place.shard].add(source.place.row)
    known = {shard.path: shard for shard in shards}
    return tuple(
        replace(known[path], removed=tuple(row for row in range(known[path].rows) if row not in rows))
        for path, rows in sorted(live.items())
    )


_KEY_FIELDS = [
    pa.field("corpus", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("start", pa.float64()),
    pa.field("end", pa.float64()),
]
SOURCE_SCHEMA = pa.schema(
    [
        *_KEY_FIELDS,
        pa.field("id", pa.string()),
        pa.field("content_hash", pa.string()),  # SHA-256 of the file's bytes; null: it could not be read
        pa.field("size", pa.int64()),  # bytes; null: it could not be looked at
        pa.field("version", pa.string()),
        pa.field("shard", pa.string()),  # null: no features
        pa.field("row", pa.int32()),
    ]
)
FAILURE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),  # null: the file could not be read, so it has no content hash
        *_KEY_FIELDS,
        pa.field("stage", pa.string(), nullable=False),  # read, decode or encode
        pa.field("kind", pa.string(), nullable=False),  # one of mgvr_core.video.decoders.FAULTS
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),
        pa.field("at", pa.string(), nullable=False),
    ]
)


def source_table(sources: Iterable[Source]) -> pa.Table:
    """Sources as a table of SOURCE_SCHEMA, in the order of their keys."""
    rows = sorted(sources, key=lambda source: _order(source.key))
    places = [source.place or (None, None) for source in rows]
    columns = {
        **_key_columns(rows),
        **{name: [getattr(source, name) for source in rows] for name in ("id", "content_hash", "size", "version")},
        "shard": [shard for shard, _ in places],
        "row": [row for _, row in places],
    }
    return pa.table([columns[name] for name in SOURCE_SCHEMA.names], schema=SOURCE_SCHEMA)


def read_sources(table: pa.Table) -> dict[Key, Source]:
    """The inverse of source_table; raises MgvrError for a table of other columns, which a damaged file may give."""
    _require_columns(table, SOURCE_SCHEMA, "sources")
    names = ("id", "content_hash", "size", "version")
    places = [
        None if shard is None else Place(shard, row)
        for shard, row in zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True)
    ]
    columns = (table[name].to_pylist() for name in names)
    return {key: Source(key, *values) for key, *values in zip(_keys(table), *columns, places, strict=True)}


def failure_table(failures: Iterable[Failure]) -> pa.Table:
    """Failures as a table of FAILURE_SCHEMA, in the order of their keys."""
    rows = sorted(failures, key=lambda failure: _order(failure.key))
    names = ("id", "stage", "kind", "message", "attempts", "decoder", "at")
    columns = {**_key_columns(rows), **{name: [getattr(failure, name) for failure in rows] for name in names}}
    return pa.table([columns[name] for name in FAILURE_SCHEMA.names], schema=FAILURE_SCHEMA)


def read_failures(table: pa.Table) -> dict[Key, Failure]:
    """The inverse of failure_table; raises MgvrError for a table of other columns."""
    _require_columns(table, FAILURE_SCHEMA, "failures")
    names = ("id", "stage", "kind", "message", "attempts", "decoder", "at")
    columns = (table[name].to_pylist() for name in names)
    return {key: Failure(key, *values) for key, *values in zip(_keys(table), *columns, strict=True)}


def _require_columns(table: pa.Table, schema: pa.Schema, what: str) -> None:
    if missing := [name for name in schema.names if name not in table.schema.names]:
        found = ", ".join(map(repr, table.schema.names))
        raise MgvrError(
            f"the table of {what} has no column {', '.join(missing)} (it has {found}): its file has been changed; see "
            "mgvr corpus verify"
        )


def require_known(contents: Contents) -> None:
    """Raise MgvrError where a source points at no row of a shard, or a video is neither encoded nor failed."""
    rows = {shard.path: shard.rows for shard in contents.shards}
    for source in contents.sources.values():
        if source.place is None and source.key not in contents.failures:
            raise MgvrError(f"{source.key.uri} is neither encoded nor among the failures")
        if source.place and not 0 <= source.place.row < rows.get(source.place.shard, 0):
            raise MgvrError(f"{source.key.uri} points at row {source.place.row} of {source.place.shard}, which is not")


_Keyed = TypeVar("_Keyed", Source, Failure)


def _key_columns(rows: Sequence[_Keyed]) -> dict[str, list[Any]]:
    return {name: [getattr(row.key, name) for row in rows] for name in Key._fields}


def _keys(table: pa.Table) -> list[Key]:
    return [Key(*parts) for parts in zip(*(table[name].to_pylist() for name in Key._fields), strict=True)]


def _order(key: Key) -> tuple[str, str, float, float]:
    return key.corpus, key.uri, key.start or 0.0, float("inf") if key.end is None else key.end
