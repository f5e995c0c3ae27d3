"""One whole version of a feature set, to be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mgvr_core.errors import MgvrError
from mgvr_core.features import codec, contents
from mgvr_core.features.codec import Codec
from mgvr_core.features.contents import Contents, Key, Place, ShardInfo, Source
from mgvr_core.features.layout import CodecConfig, coding_of
from mgvr_core.features.schema import fingerprint_of, upgrade
from mgvr_core.identity import Fingerprint
from mgvr_core.storage import Storage

FORMAT_VERSION = 2
"""Of the snapshot files. 1: without sources; a set of one run."""


@dataclass(frozen=True)
class FileInfo:
    """A table beside the shards."""

    path: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Snapshot:
    """One whole version of the set."""

    storage: Storage
    number: int
    fingerprint: Fingerprint
    shards: tuple[ShardInfo, ...]
    sources_file: FileInfo | None
    """None: the set was written before sources were kept."""
    failure_files: tuple[FileInfo, ...]
    created: str
    about: dict[str, Any]
    """What the writer recorded about its run."""
    format: int = FORMAT_VERSION

    @property
    def url(self) -> str:
        """The set's folder or address."""
        return self.storage.url

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rstrip("/").rsplit("/", 1)[-1]

    @property
    def rows(self) -> int:
        """Videos in the set."""
        return sum(shard.live for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Of all shards together."""
        return sum(shard.bytes for shard in self.shards)

    def read_shard(self, shard: ShardInfo, columns: Sequence[str] | None = None) -> pa.Table:
        """One shard's rows that are part of the set, in the current schema.

        Raises MgvrError where it can't be read, carries another fingerprint, or is not as long as the snapshot says.
        """
        where = f"{self.url}/{shard.path}"
        whole = present = None
        with self._reading(shard.path):
            if columns is not None:
                whole = self.storage.read_schema(shard.path)
                # A column that an older schema lacks is added by the upgrade.
                present = [name for name in columns if name in whole.names]
            table = self.storage.read_table(shard.path, present)
        differences = self.fingerprint.differences(fingerprint_of(table.schema, where))
        if differences:
            raise MgvrError(f"shard {where} does not belong to snapshot {self.number}: {'; '.join(differences)}")
        if len(table) != shard.rows:
            raise MgvrError(f"shard {where} has {len(table)} rows, snapshot {self.number} says {shard.rows}")
        table = upgrade(table, columns, whole)
        if columns is not None:
            missing = [name for name in columns if name not in table.schema.names]
            if missing:
                raise MgvrError(f"shard {where} has no column {', '.join(missing)}")
            table = table.select(list(columns))
        if shard.removed:
            table = table.take(pa.array(shard.live_rows))
        return table

    def schema(self) -> pa.Schema:
        """The schema of the shards, of which there must be one."""
        path = self.shards[0].path
        with self._reading(path):
            return self.storage.read_schema(path)

    def codec(self) -> Codec | None:
        """How the fine features are coded; None: they are not.

        Raises MgvrError where the codebooks can't be read or are not those that the fingerprint names.
        """
        coding = coding_of(self.fingerprint)
        if coding is None:
            return None
        if coding["codebooks"] is None:
            return Codec(CodecConfig(values=coding["values"], tokens=coding["tokens"]))
        name = codebooks_name(coding["codebooks"])
        with self._reading(name):
            found = codec.load(self.storage.read(name), f"{self.url}/{name}")
        if found.digest != coding["codebooks"]:
            raise MgvrError(f"{self.url}/{name} has been changed: nothing that is coded with it can be read")
        return found

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All shards in order, one at a time."""
        return (self.read_shard(shard, columns) for shard in self.shards)

    def require(self, column: str) -> None:
        """Raise MgvrError where videos of the set have no value in a column: encoded before such a one was kept.

        Reads the column of every shard.
        """
        missing = sum(table[column].null_count for table in self.tables([column]))
        if missing:
            raise MgvrError(
                f"{missing} of {self.rows} videos of {self.url} (snapshot {self.number}) have no {column}: an older "
                "version of mgvr encoded them and did not keep it. Encode the corpus again, into another --out"
            )

    def sources(self) -> dict[Key, Source]:
        """Every listed video. Of a set without sources (format 1), its rows and failures: files were not looked at."""
        if self.sources_file is not None:
            return contents.read_sources(self._table(self.sources_file))
        failures = contents.read_failures(self.failed())
        found = {key: Source(key, failure.id, None, None, None) for key, failure in failures.items()}
        for shard in self.shards:
            for row, values in enumerate(self.read_shard(shard, _V1_COLUMNS).to_pylist()):
                key = Key("", values["uri"], values["start"], values["end"])
                found[key] = Source(key, values["id"], values["content_hash"], None, None, Place(shard.path, row))
        return found

    def failed(self) -> pa.Table:
        """The failures table of this version."""
        tables = [self._table(info) for info in self.failure_files]
        if self.format < 2:
            tables = [_upgrade_failures(table, self.created) for table in tables]
        return pa.concat_tables(tables) if tables else contents.FAILURE_SCHEMA.empty_table()

    def places(self) -> pa.Table:
        """Where each video lies that has features, and in which row of which file: columns uri, shard, row.

        Several uris of one place are exact duplicates; the first is first in the order of the listing.
        """
        if self.sources_file is not None:
            table = self._table(self.sources_file).select(["uri", "shard", "row"])
        else:
            table = contents.source_table(self.sources().values()).select(["uri", "shard", "row"])
        return table.filter(pc.is_valid(table["shard"]))

    def contents(self) -> Contents:
        """All of it, for the next change."""
        return Contents(self.sources(), contents.read_failures(self.failed()), self.shards)

    def files(self) -> set[str]:
        """Names of all files that this version needs."""
        tables = [info.path for info in (self.sources_file, *self.failure_files) if info is not None]
        coding = coding_of(self.fingerprint) or {}
        books = [codebooks_name(digest)] if (digest := coding.get("codebooks")) else []
        return {shard.path for shard in self.shards} | {*tables, *books, snapshot_name(self.number)}

    def _table(self, info: FileInfo) -> pa.Table:
        with self._reading(info.path):
            return self.storage.read_table(info.path)

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise MgvrError(f"{self.url}/{path} of snapshot {self.number} can't be read: {error}") from error


def snapshot_name(number: int) -> str:
    """The file of a snapshot, relative to the set."""
    return f"snapshots/{number:08d}.json"


def codebooks_name(digest: str) -> str:
    """The file of codebooks with a SHA-256, relative to the set."""
    return f"codebooks/{digest[:24]}.safetensors"


_V1_COLUMNS = ("id", "uri", "content_hash", "start", "end")


def _upgrade_failures(table: pa.Table, created: str) -> pa.Table:
    """Failures of format 1: without corpus, attempts and time. Duplicates were among them, which no longer fail."""
    rows = [
        {**row, "corpus": "", "attempts": 1, "at": created} for row in table.to_pylist() if row["kind"] != "duplicate"
    ]
    return pa.Table.from_pylist(rows, schema=contents.FAILURE_SCHEMA)
