"""The feature set on disk: immutable Parquet shards, and snapshots that say which of them are the set.

    shards/<hash>.parquet      rows, named by their content
    failures/<hash>.parquet    videos that could not be encoded, and why
    snapshots/00000001.json    which shards make up version 1

A snapshot becomes current in one step, when its file appears under the next number: a reader sees the old set or the
new one, and a run that was killed leaves shards that no snapshot names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from mgvr_core.errors import JobError, MgvrError
from mgvr_core.features.schema import SCHEMA_VERSION, fingerprint_of
from mgvr_core.identity import Fingerprint, hash_file

FAILURE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),  # null: the file could not be read, so it has no content hash
        pa.field("uri", pa.string(), nullable=False),
        pa.field("start", pa.float64()),
        pa.field("end", pa.float64()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class ShardInfo:
    """One immutable file of the set."""

    path: str
    """Relative to the set's folder."""
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Snapshot:
    """One whole version of the set."""

    root: Path
    number: int
    fingerprint: Fingerprint
    shards: tuple[ShardInfo, ...]
    failures: tuple[ShardInfo, ...]
    created: str
    about: dict[str, Any]
    """What the writer recorded about its run."""

    @property
    def rows(self) -> int:
        """Videos in the set."""
        return sum(shard.rows for shard in self.shards)

    def read_shard(self, shard: ShardInfo, columns: Sequence[str] | None = None) -> pa.Table:
        """One shard's rows; raises MgvrError where it can't be read or carries another fingerprint."""
        path = self.root / shard.path
        try:
            table = pq.read_table(path, columns=None if columns is None else list(columns))
        except (OSError, pa.ArrowInvalid) as error:
            raise MgvrError(f"shard {path} of snapshot {self.number} can't be read: {error}") from error
        differences = self.fingerprint.differences(fingerprint_of(table.schema, str(path)))
        if differences:
            raise MgvrError(f"shard {path} does not belong to snapshot {self.number}: {'; '.join(differences)}")
        return table

    def schema(self) -> pa.Schema:
        """The schema of the shards, of which there must be one."""
        return pq.read_schema(self.root / self.shards[0].path)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All shards in order, one at a time."""
        return (self.read_shard(shard, columns) for shard in self.shards)

    def failed(self) -> pa.Table:
        """The failures table of this version."""
        tables = [pq.read_table(self.root / info.path) for info in self.failures]
        return pa.concat_tables(tables) if tables else FAILURE_SCHEMA.empty_table()


class FeatureStore:
    """A feature set in a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write_shard(self, table: pa.Table) -> ShardInfo:
        """Store feature rows as a shard that no snapshot names yet."""
        return self._write(table, "shards")

    def write_failures(self, table: pa.Table) -> ShardInfo:
        """Store failure rows, of `FAILURE_SCHEMA`, that no snapshot names yet."""
        return self._write(table.cast(FAILURE_SCHEMA), "failures")

    def latest(self) -> int:
        """Number of the current snapshot, 0 where there is none."""
        numbers = [int(path.stem) for path in (self.root / "snapshots").glob("*.json") if path.stem.isdigit()]
        return max(numbers, default=0)

    def snapshot(self, number: int | None = None) -> Snapshot:
        """The current snapshot, or one by its number; raises MgvrError where there is none."""
        number = self.latest() if number is None else number
        if not number:
            raise MgvrError(f"{self.root} holds no feature set: give the folder that mgvr encode wrote (its --out)")
        path = self._snapshot_path(number)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MgvrError(f"snapshot {number} of {self.root} can't be read: {error}") from None
        if document["schema_version"] > SCHEMA_VERSION:
            raise MgvrError(f"{path} has schema version {document['schema_version']}: use a newer version of mgvr")
        return Snapshot(
            root=self.root,
            number=number,
            fingerprint=Fingerprint(document["fingerprint"]),
            shards=tuple(ShardInfo(**shard) for shard in document["shards"]),
            failures=tuple(ShardInfo(**shard) for shard in document["failures"]),
            created=document["created"],
            about=document["about"],
        )

    def require_writable(self) -> None:
        """Raise MgvrError where the file system can't do what a commit needs: rename, and link without overwriting."""
        place = self.root / "snapshots"
        first, second = place / f".{uuid4().hex}", place / f".{uuid4().hex}"
        try:
            place.mkdir(parents=True, exist_ok=True)
            first.touch()
            os.link(first, second)
            second.replace(first)
        except OSError as error:
            raise MgvrError(
                f"{self.root} can't hold a feature set: {error}. It takes a file system with hard links, such as a "
                "local disk or NFS; mounted object stores have none."
            ) from None
        finally:
            first.unlink(missing_ok=True)
            second.unlink(missing_ok=True)

    def require_fingerprint(self, fingerprint: Fingerprint) -> None:
        """Raise MgvrError where the set was made by something else than `fingerprint`: sets are never mixed."""
        if not self.latest():
            return
        differences = self.snapshot().fingerprint.differences(fingerprint)
        if differences:
            raise MgvrError(
                f"{self.root} already holds features made otherwise; nothing mixes two fingerprints. Differences:\n  "
                + "\n  ".join(differences)
                + "\nChoose another folder with --out."
            )

    def commit(
        self,
        parent: int,
        fingerprint: Fingerprint,
        shards: Sequence[ShardInfo],
        failures: Sequence[ShardInfo],
        about: dict[str, Any],
    ) -> Snapshot:
        """Make these shards the current set, as the successor of snapshot `parent`.

        Raises JobError where another writer has committed since `parent`, and leaves its snapshot as it is.
        """
        self.require_fingerprint(fingerprint)
        document = {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "fingerprint": dict(fingerprint.parts),
            "rows": sum(shard.rows for shard in shards),
            "shards": [asdict(shard) for shard in shards],
            "failures": [asdict(shard) for shard in failures],
            "about": about,
        }
        path = self._snapshot_path(parent + 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid4().hex}")
        temporary.write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")
        _sync(temporary)
        try:
            # A link, unlike a rename, fails where the name is taken: the loser of a race is told.
            os.link(temporary, path)
        except FileExistsError:
            raise JobError(f"another run has committed {path.name} to {self.root} meanwhile: run again") from None
        finally:
            temporary.unlink()
        return self.snapshot(parent + 1)

    def _snapshot_path(self, number: int) -> Path:
        return self.root / "snapshots" / f"{number:08d}.json"

    def _write(self, table: pa.Table, folder: str) -> ShardInfo:
        place = self.root / folder
        place.mkdir(parents=True, exist_ok=True)
        temporary = place / f".{uuid4().hex}"
        # Features are noise to a byte compressor: it costs time and saves nothing.
        pq.write_table(table, temporary, compression="none", use_dictionary=False)
        _sync(temporary)
        sha256 = hash_file(temporary)
        path = place / f"{sha256[:32]}.parquet"
        temporary.replace(path)
        return ShardInfo(str(path.relative_to(self.root)), table.num_rows, path.stat().st_size, sha256)


def _sync(path: Path) -> None:
    """Reach the disk before the name does, so that a power cut can't leave a named file without its bytes."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
