"""The feature set on disk or in an object store: immutable Parquet shards, and snapshots that say which are the set.

    shards/<hash>-<chance>.parquet   rows
    corpus/<hash>-<chance>.parquet   which videos are listed and where their features are; which have failed, and why
    codebooks/<hash>.safetensors     of a set that is coded with some; they stay as long as the set does
    snapshots/00000001.json          the shards, sources and failures that make up version 1; empty once gc removed it
    pending/<hash>.json              work that is done and not yet part of a snapshot: a run that was killed finds it
    landing/, leaving/               what a commit or a gc is just doing (see `notices`)

A snapshot becomes current in one step, when its file appears under the next number: a reader sees the old set or the
new one, and what a killed run leaves behind no snapshot names.

No name is ever used twice. Else a gc could remove under an old name what a commit has just put there, or make room for
a commit that has slept through others: it would land under a number that is past, and be lost.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mgvr_core.errors import JobError, MgvrError
from mgvr_core.features import codec, contents, pending, rubbish
from mgvr_core.features.codec import Codec
from mgvr_core.features.contents import Change, Contents, Failure, Place, ShardInfo
from mgvr_core.features.notices import notice, notices
from mgvr_core.features.pending import Pending
from mgvr_core.features.rubbish import Rubbish
from mgvr_core.features.schema import SCHEMA_VERSION, upgrade, upgraded
from mgvr_core.features.snapshot import FORMAT_VERSION, FileInfo, Snapshot, codebooks_name, snapshot_name
from mgvr_core.identity import Fingerprint, hash_file
from mgvr_core.storage import Entry, Storage, open_storage

_ATTEMPTS = 50
"""Commits tried against other writers before a run gives up: each one that fails, another has landed."""


class FeatureStore:
    """A feature set in a local folder or at the address of an object store."""

    def __init__(self, place: str | Path | Storage) -> None:
        self.storage = place if isinstance(place, Storage) else open_storage(place)

    @property
    def url(self) -> str:
        """The folder or address."""
        return self.storage.url

    def write_shard(self, table: pa.Table) -> ShardInfo:
        """Store feature rows as a shard that no snapshot names yet."""
        return ShardInfo(*self._write(table, "shards"))

    def write_codebooks(self, made_with: Codec) -> None:
        """Store the codebooks of a codec that has any: before the first shard, which nobody could read without."""
        if made_with.digest:
            self.storage.put(codebooks_name(made_with.digest), made_with.file)

    def codebooks(self) -> list[Codec]:
        """The codecs whose codebooks lie in the set, a killed run's among them."""
        entries = self.storage.entries("codebooks")
        return [codec.load(self.storage.read(entry.name), f"{self.url}/{entry.name}") for entry in entries]

    def record(
        self,
        fingerprint: Fingerprint,
        shard: ShardInfo | None,
        ids: Sequence[tuple[str, str]],
        failures: Sequence[tuple[str, Failure]] = (),
        run: str = "",
    ) -> str:
        """Write down finished work of a run, so that one that takes over finds it; returns the record's name."""
        data = pending.written(fingerprint.digest, run, shard, ids, failures)
        name = f"pending/{sha256(data).hexdigest()[:32]}.json"
        self.storage.put(name, data)
        return name

    def pending(self, fingerprint: Fingerprint) -> list[Pending]:
        """Finished work of this fingerprint that lies about, this run's, a killed one's or another's.

        Work whose shard is gone is not finished: a commit could never take it up.
        """
        found = []
        records = self.storage.entries("pending")  # before the shards: a record is written after its shard
        there = self._staying("shards")
        for entry in records:
            try:
                record = pending.read(entry.name, self.storage.read(entry.name))
            except FileNotFoundError:
                continue  # another run has just committed it
            if record is None or record.fingerprint != fingerprint.digest:
                continue
            if record.shard is None or record.shard.path in there:
                found.append(record)
        return found

    def renew(self, records: Sequence[Pending]) -> None:
        """Show gc that a run counts on pending work: all that one run made is as young as its youngest record."""
        for record in {record.run: record for record in records}.values():
            with contextlib.suppress(FileNotFoundError):  # committed meanwhile
                self.storage.put(record.name, self.storage.read(record.name))

    def settle(self, records: Sequence[Pending]) -> None:
        """Forget pending work that a snapshot has taken up. What can't be removed now, the next run finds settled."""
        for record in records:
            with contextlib.suppress(OSError):
                self.storage.remove(record.name)

    def numbers(self) -> list[int]:
        """Numbers of all snapshots, ascending."""
        return sorted(self._versions())

    def latest(self) -> int:
        """Number of the current snapshot, 0 where there is none."""
        return max(self.numbers(), default=0)

    def snapshot(self, number: int | None = None) -> Snapshot:
        """The current snapshot, or one by its number; raises MgvrError where there is none."""
        number = self.latest() if number is None else number
        if not number:
            raise MgvrError(f"{self.url} holds no feature set: give what mgvr encode wrote (its --out)")
        try:
            data = self.storage.read(snapshot_name(number))
            document = json.loads(data) if data else None
        except FileNotFoundError:
            there = ", ".join(map(str, self.numbers())) or "none"
            where = f"{self.url}/{snapshot_name(number)}"
            raise MgvrError(f"{where} is not there, so that there is no snapshot {number}: there are {there}") from None
        except (OSError, ValueError) as error:
            where = f"{self.url}/{snapshot_name(number)}"
            raise MgvrError(f"snapshot {number} of {self.url} can't be read: {where}: {error}") from None
        if document is None:
            raise MgvrError(f"snapshot {number} of {self.url} is there no more: mgvr corpus gc has removed it")
        return self._parsed(number, document)

    def _parsed(self, number: int, document: dict[str, Any]) -> Snapshot:
        where = f"{self.url}/{snapshot_name(number)}"
        # Format 1 knew one version, the shards'.
        version = document.get("format_version", 1)
        if version > FORMAT_VERSION or document["schema_version"] > SCHEMA_VERSION:
            newer = f"format {version}, schema version {document['schema_version']}"
            raise MgvrError(f"{where} has {newer}: use a newer version of mgvr")
        return Snapshot(
            storage=self.storage,
            number=number,
            fingerprint=upgraded(Fingerprint(document["fingerprint"])),
            shards=tuple(ShardInfo.from_json(shard) for shard in document["shards"]),
            sources_file=FileInfo(**document["sources"]) if version > 1 else None,
            failure_files=tuple(FileInfo(info["path"], info["rows"], info["sha256"]) for info in document["failures"]),
            created=document["created"],
            about=document["about"],
            format=version,
        )

    def contents(self) -> Contents:
        """What the current snapshot says; empty where there is none."""
        return self.snapshot().contents() if self.latest() else Contents()

    def require_writable(self) -> None:
        """Raise MgvrError where the place can't do what a commit needs."""
        self.storage.require_writable()

    def require_fingerprint(self, fingerprint: Fingerprint) -> None:
        """Raise MgvrError where the set was made by something else than `fingerprint`: sets are never mixed."""
        if self.latest():
            self._require_same(self.snapshot().fingerprint, fingerprint)

    def commit(self, fingerprint: Fingerprint, change: Change, about: dict[str, Any]) -> Snapshot:
        """Make the set what the change says, on top of whatever other runs have committed meanwhile.

        Returns the new snapshot, or the current one where the change changes nothing. Raises JobError where another
        run's videos contradict this one's, where this run's shards are gone, or where the store fails.
        """
        try:
            return self._commit(fingerprint, change, about)
        except OSError as error:
            raise JobError(f"{self.url} can't be written: {error}; what is done is not lost, run it again") from error

    def _commit(self, fingerprint: Fingerprint, change: Change, about: dict[str, Any]) -> Snapshot:
        compacted: dict[ShardInfo, ShardInfo] = {}
        for attempt in range(_ATTEMPTS):
            number = self.latest()
            try:
                parent = self.snapshot(number) if number else None
                head = parent.contents() if parent else Contents()
            except MgvrError:
                if self.latest() == number:
                    raise
                continue  # others have committed meanwhile, and a gc has removed it
            if parent:
                self._require_same(parent.fingerprint, fingerprint)
            after = contents.fold(head, change)
            if parent and after == head and parent.format == FORMAT_VERSION:
                return parent
            after = self._compacted(after, compacted)
            fresh = {shard.path for shard in after.shards} - {shard.path for shard in head.shards}
            created = self._create(number + 1, fingerprint, after, about, fresh)
            if created:
                # Made for an attempt that lost its race, and named by none.
                for path in {shard.path for shard in compacted.values()} - {shard.path for shard in created.shards}:
                    self.storage.remove(path)
                return created
            time.sleep(random.uniform(0, 0.02 * (attempt + 1)))  # two that retry in step would meet again
        raise JobError(f"other runs commit to {self.url} without a pause: nothing of this one is lost, run it again")

    def rubbish(self, keep: int, older_than_s: float) -> Rubbish:
        """What neither the last `keep` snapshots need, nor a reader of one that was current within `older_than_s`
        seconds, nor a run under way.
        """
        return rubbish.find(self.storage, self._versions, self._needs, keep, older_than_s)

    def remove(self, unneeded: Rubbish) -> None:
        """Remove it, but for what a commit has named meanwhile."""
        rubbish.remove(self.storage, self._versions, self._needs, unneeded)

    def _versions(self) -> dict[int, Entry]:
        try:
            entries = self.storage.entries("snapshots")
        except OSError as error:
            raise MgvrError(f"{self.url} can't be read: {error}") from error
        named = {entry.name.rsplit("/", 1)[-1].removesuffix(".json"): entry for entry in entries if entry.bytes}
        return {int(name): entry for name, entry in named.items() if name.isdigit()}

    def _needs(self, number: int) -> set[str]:
        return self.snapshot(number).files()

    def _require_same(self, ours: Fingerprint, fingerprint: Fingerprint) -> None:
        differences = ours.differences(fingerprint)
        if differences:
            raise MgvrError(
                f"{self.url} already holds features made otherwise; nothing mixes two fingerprints. Differences:\n  "
                + "\n  ".join(differences)
                + "\nChoose another folder with --out; {fingerprint} in it stands for the fingerprint's short name."
            )

    def _compacted(self, after: Contents, done: dict[ShardInfo, ShardInfo]) -> Contents:
        """Shards of which less than half is left are written anew: a set that changes must not grow for ever.

        `done` has those that an earlier attempt has written, by what they were made of.
        """
        moved: dict[Place, Place] = {}
        shards = []
        for shard in after.shards:
            if 2 * shard.live >= shard.rows:
                shards.append(shard)
                continue
            live = shard.live_rows
            written = done.get(shard) or self.write_shard(upgrade(self._read(shard)).take(pa.array(live)))
            done[shard] = written
            moved |= {Place(shard.path, int(old)): Place(written.path, new) for new, old in enumerate(live)}
            shards.append(written)
        if not moved:
            return after
        sources = {
            key: replace(source, place=moved.get(source.place, source.place)) if source.place else source
            for key, source in after.sources.items()
        }
        return Contents(sources, after.failures, tuple(sorted(shards, key=lambda shard: shard.path)))

    def _read(self, shard: ShardInfo) -> pa.Table:
        try:
            return self.storage.read_table(shard.path)
        except FileNotFoundError:
            raise self._gone(shard.path) from None
        except pa.ArrowException as error:
            raise JobError(f"{self.url}/{shard.path} can't be read: {error}") from error

    def _gone(self, path: str) -> JobError:
        return JobError(f"{self.url}/{path} is gone: mgvr corpus gc has removed it, or is about to. Run it again")

    def _staying(self, *folders: str) -> set[str]:
        """The files of folders that no gc is about to remove. The notices first: by the listing, it may be over."""
        leaving = {name for found in notices(self.storage, "leaving") for name in found.files}
        return {entry.name for folder in folders for entry in self.storage.entries(folder)} - leaving

    def _create(
        self, number: int, fingerprint: Fingerprint, after: Contents, about: dict[str, Any], fresh: set[str]
    ) -> Snapshot | None:
        """Write a snapshot; None where one of that number is there. `fresh`: shards that its parent does not name."""
        contents.require_known(after)
        sources = self._write(contents.source_table(after.sources.values()), "corpus")
        failures = [self._write(contents.failure_table(after.failures.values()), "corpus")] if after.failures else []
        document = {
            "format_version": FORMAT_VERSION,
            "schema_version": SCHEMA_VERSION,
            "created": contents.now(),
            "fingerprint": dict(fingerprint.parts),
            "rows": sum(shard.live for shard in after.shards),
            "shards": [shard.to_json() for shard in after.shards],
            "sources": _file_json(sources),
            "failures": [_file_json(info) for info in failures],
            "about": about,
        }
        data = json.dumps(document, indent=1, allow_nan=False).encode()
        tables = {path for path, *_ in (sources, *failures)}
        with notice(self.storage, "landing", fresh | tables, number):
            lost = (fresh | tables) - self._staying("shards", "corpus")
            if lost:
                raise self._gone(min(lost))
            try:
                self.storage.create(snapshot_name(number), data)
            except FileExistsError:
                # A client that hears nothing of its success tries again, and finds what it has made itself.
                if self.storage.read(snapshot_name(number)) != data:
                    for name in tables:
                        self.storage.remove(name)
                    return None
        return self._parsed(number, document)

    def _write(self, table: pa.Table, folder: str) -> tuple[str, int, int, str]:
        scratch = self.storage.scratch()
        try:
            # Features are noise to a byte compressor, and their least and greatest numbers tell nobody anything: both
            # cost time (minima and maxima two fifths of all) and save nothing.
            plain = folder == "shards"
            pq.write_table(
                table,
                scratch,
                compression="none" if plain else "zstd",
                use_dictionary=not plain,
                write_statistics=not plain,
            )
            digest, size = hash_file(scratch), scratch.stat().st_size
            name = f"{folder}/{digest[:24]}-{token_hex(4)}.parquet"
            self.storage.place(scratch, name)
        finally:
            scratch.unlink(missing_ok=True)
        return name, table.num_rows, size, digest


def _file_json(written: tuple[str, int, int, str]) -> dict[str, Any]:
    path, rows, _, digest = written
    return asdict(FileInfo(path, rows, digest))
