"""Where files lie: a local folder, or a prefix of an object store (s3://, gs://), behind the few verbs that we need.

What makes a feature set safe rests on two of them: `place` and `put` make a file appear whole or not at all, and
`create` makes it appear only where none of that name is, whoever else tries at the same moment.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator

from mgvr_core.errors import MgvrError
from mgvr_core.files import sync
from mgvr_core.scratch import new_file
from mgvr_core.uris import is_url, to_local

STORES = {"s3": "s3", "gs": "gcs"}
"""Object stores that a feature set can lie in, with the extra of this package that brings their client."""


def _storable(name: str) -> str:
    scheme = name.split("://")[0] if is_url(to_local(name)) else ""
    if scheme and scheme not in STORES:
        known = ", ".join(f"{known}://" for known in STORES)
        raise ValueError(f"must be a folder, or begin with one of {known}")
    return to_local(name)


StorePath = Annotated[str, AfterValidator(_storable)]
"""A local folder or the address of a prefix in an object store."""


@dataclass(frozen=True)
class Entry:
    """A file as a listing shows it."""

    name: str
    """Relative to the storage's root."""
    bytes: int
    modified: float
    """Seconds since 1970."""


class Storage(ABC):
    """Files below one root; names are relative to it, with `/` between their parts. Instances can be pickled.

    What goes wrong outside is an OSError, whichever store it is.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A whole file; raises FileNotFoundError, or another OSError."""

    @abstractmethod
    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file, or some columns of it; raises OSError and ArrowInvalid."""

    @abstractmethod
    def read_schema(self, name: str) -> pa.Schema:
        """The Arrow schema of a Parquet file."""

    @abstractmethod
    def entries(self, folder: str) -> list[Entry]:
        """The finished files of a folder, in the order of their names; none where there is no such folder."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> None:
        """Make a file whole, in one step; raises FileExistsError where one of that name is there."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Make or replace a file in one step."""

    @abstractmethod
    def scratch(self) -> Path:
        """A path on this machine for a file that `place` will move in."""

    @abstractmethod
    def place(self, scratch: Path, name: str) -> None:
        """Move a finished file from `scratch` to its name in one step."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; none of that name is as good."""

    @abstractmethod
    def download(self, name: str) -> Path:
        """The file as one of this machine (for an object store a copy that the caller removes)."""

    def require_writable(self) -> None:
        """Raise MgvrError where the place can't do what a commit needs: create a file only where there is none."""
        probe = f"snapshots/.probe-{uuid4().hex}"
        try:
            self.create(probe, b"")
            try:
                self.create(probe, b"")
            except FileExistsError:
                return
            raise MgvrError(
                f"{self.url} can't hold a feature set: it overwrites a file where it was told to create one only if "
                "there is none. Two runs at once would lose one another's work; use a store with conditional writes."
            )
        except OSError as error:
            raise MgvrError(f"{self.url} can't hold a feature set: {error}. {self._advice}") from None
        finally:
            with contextlib.suppress(OSError):
                self.remove(probe)

    _advice: str


class LocalStorage(Storage):
    """A folder of a file system with hard links."""

    _advice = "It takes a file system with hard links, such as a local disk or NFS; mounted object stores have none."

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = str(self.root)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        # partitioning: a root such as `model=a` is part of a path, not a column.
        return pq.read_table(self.root / name, columns=_listed(columns), partitioning=None)

    def read_schema(self, name: str) -> pa.Schema:
        return pq.read_schema(self.root / name)

    def entries(self, folder: str) -> list[Entry]:
        found = []
        try:
            inside = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        for entry in inside:
            try:
                status = entry.stat()
            except FileNotFoundError:  # removed meanwhile
                continue
            if not entry.name.startswith(".") and entry.is_file():
                found.append(Entry(f"{folder}/{entry.name}", status.st_size, status.st_mtime))
        return found

    def create(self, name: str, data: bytes) -> None:
        scratch = self._written(data)
        path = self._ready(name)
        try:
            # A link, unlike a rename, fails where the name is taken: the loser of a race is told.
            os.link(scratch, path)
        finally:
            scratch.unlink()
        sync(path.parent)

    def put(self, name: str, data: bytes) -> None:
        self._written(data).replace(self._ready(name))

    def scratch(self) -> Path:
        folder = self.root / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid4().hex

    def place(self, scratch: Path, name: str) -> None:
        sync(scratch)
        path = self._ready(name)
        scratch.replace(path)
        sync(path.parent)

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def download(self, name: str) -> Path:
        return self.root / name

    def _ready(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _written(self, data: bytes) -> Path:
        scratch = self.scratch()
        scratch.write_bytes(data)
        sync(scratch)
        return scratch


class ObjectStorage(Storage):
    """A prefix of an object store. An upload is seen when it is complete, and by then it is whole."""

    _advice = "Check the address, the credentials in the environment and the right to write there."

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._scheme, self._root = self.url.split("://", 1)

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        """The store's client, for the length of a block in which what it raises is an OSError."""
        files = filesystem(self._scheme)
        try:
            yield files
        except (OSError, pa.ArrowException):
            raise
        except Exception as error:  # no credentials, no such host: each client has exceptions of its own
            raise OSError(f"{type(error).__name__}: {error}") from error

    def read(self, name: str) -> bytes:
        with self._client() as files:
            data: bytes = files.cat_file(self._path(name))
        return data

    def read_table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        with self._client() as files, files.open(self._path(name), "rb") as file:
            return pq.read_table(file, columns=_listed(columns))

    def read_schema(self, name: str) -> pa.Schema:
        with self._client() as files, files.open(self._path(name), "rb") as file:
            return pq.read_schema(file)

    def entries(self, folder: str) -> list[Entry]:
        try:
            with self._client() as files:
                inside = files.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return []
        found = []
        for entry in inside:
            name = str(entry["name"]).removeprefix(f"{self._root}/")
            if entry["type"] == "file" and not name.rsplit("/", 1)[-1].startswith("."):
                modified = entry.get("LastModified") or entry.get("updated") or entry.get("mtime")
                found.append(Entry(name, entry["size"], _epoch(modified)))
        return sorted(found, key=lambda entry: entry.name)

    def create(self, name: str, data: bytes) -> None:
        try:
            with self._client() as files:
                files.pipe_file(self._path(name), data, mode="create")
        except OSError as error:
            if not isinstance(error, FileExistsError) and _is_taken(error):
                raise FileExistsError(f"{self.url}/{name}: {error}") from error
            raise

    def put(self, name: str, data: bytes) -> None:
        with self._client() as files:
            files.pipe_file(self._path(name), data)

    def scratch(self) -> Path:
        return new_file()

    def place(self, scratch: Path, name: str) -> None:
        try:
            with self._client() as files:
                files.put_file(str(scratch), self._path(name))
        finally:
            scratch.unlink()

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._client() as files:
            files.rm_file(self._path(name))

    def download(self, name: str) -> Path:
        scratch = self.scratch()
        try:
            with self._client() as files:
                files.get_file(self._path(name), str(scratch))
        except OSError:
            scratch.unlink()
            raise
        return scratch

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def open_storage(url: str | Path) -> Storage:
    """The storage at a local folder or a URL. Nothing is read or made. Raises MgvrError for an unknown scheme."""
    name = to_local(str(url))
    if not is_url(name):
        return LocalStorage(Path(name))
    scheme = name.split("://", 1)[0].lower()
    if scheme not in STORES:
        raise MgvrError(f"{name}: a feature set lies in a folder or at {', '.join(f'{known}://' for known in STORES)}")
    filesystem(scheme)  # the client is there, or the user is told before any work
    return ObjectStorage(name)


def filesystem(scheme: str) -> Any:
    """The fsspec file system of a scheme; raises MgvrError where its client is not installed."""
    try:
        # Without its cache of listings: another writer's file must be seen at once.
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as error:
        extra = STORES.get(scheme)
        advice = f"install mgvr[{extra}]" if extra else "install the fsspec package that brings it"
        raise MgvrError(f"{scheme}:// can't be reached: {error}; {advice}") from None


def _listed(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)


def _epoch(modified: object) -> float:
    if isinstance(modified, datetime):
        return modified.timestamp()
    # A file whose age is not known counts as one of just now: nothing that asks for its age may take it for rubbish.
    return datetime.fromisoformat(modified).timestamp() if isinstance(modified, str) else time.time()


def _is_taken(error: OSError) -> bool:
    """Whether a store refused to create a file because it is there, or because another is just creating it.

    s3fs knows the first answer in the words of AWS alone.
    """
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
