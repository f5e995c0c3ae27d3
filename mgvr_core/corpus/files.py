"""The files of a corpus, on this machine or elsewhere (s3://, gs://, https://): looked at, hashed, fetched.

A file that can't be had is a Trouble and no exception: one of a million must not end the run.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from mgvr_core.errors import MgvrError
from mgvr_core.scratch import new_file
from mgvr_core.storage import filesystem
from mgvr_core.uris import is_url
from mgvr_core.video.decoders import FAULTS, TRANSIENT, DecodeError, Fault, opening_fault, require_regular_file

SCHEMES = ("s3", "gs", "http", "https")
"""Where videos may lie besides this machine's file system."""

_THREADS = 16
_CHUNK = 1 << 20
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Errors that are this machine\'s and no file\'s."""
_FILES, _OBJECTS = 256, 4096
"""Looked at by one task of the pool; handed to the pool at once."""
_FOLDER_PAYS = 8
"""Files of one remote folder from which listing it is cheaper than asking for each."""


class Look(NamedTuple):
    """What a file looks like from outside: enough to see that it has changed."""

    size: int
    version: str
    """`mtime:` nanoseconds, `etag:` of an object, or `modified:` where a server tells nothing better."""


class Trouble(NamedTuple):
    """Why a file can't be had."""

    kind: Fault
    message: str


def require_schemes(uris: Iterable[str], corpus: str) -> None:
    """Raise MgvrError for a uri that no client of ours reaches, and where a client is not installed."""
    schemes = {uri.split("://", 1)[0].lower(): uri for uri in uris if is_url(uri)}
    for scheme, uri in schemes.items():
        if scheme not in SCHEMES:
            known = ", ".join(f"{known}://" for known in SCHEMES)
            raise MgvrError(f"{corpus}: {uri} can't be read: a video is a file, or lies at {known}")
        filesystem(scheme)


def look(uris: Iterable[str], attempts: int = 1, backoff_s: float = 0.0) -> dict[str, Look | Trouble]:
    """What every file looks like; nothing is read. A folder of an object store is listed once for all its files.

    Where the trouble may pass, all such files are looked at again together, up to `attempts` times.
    """
    found = _look_once(uris)
    for number in range(1, attempts):
        shaky = [uri for uri, seen in found.items() if isinstance(seen, Trouble) and seen.kind in TRANSIENT]
        if not shaky:
            break
        time.sleep(backoff_s * 2 ** (number - 1))
        found |= _look_once(shaky)
    return found


def _look_once(uris: Iterable[str]) -> dict[str, Look | Trouble]:
    local: list[str] = []
    remote: dict[str, list[str]] = defaultdict(list)
    for uri in dict.fromkeys(uris):
        if is_url(uri):
            remote[uri.rsplit("/", 1)[0]].append(uri)
        else:
            local.append(uri)
    found: dict[str, Look | Trouble] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for looks in pool.map(_look_at_files, _parts(local, _FILES)):
            found.update(looks)
        entries: dict[str, Mapping[str, Any]] = {}
        for listed in pool.map(_list_folder, remote.items()):
            entries.update(listed)
        for group in remote.values():
            found.update((uri, _as_look(uri, entries[uri])) for uri in group if uri in entries)
        alone = [uri for group in remote.values() for uri in group if uri not in entries]
        for part in _parts(alone, _OBJECTS):
            found.update(zip(part, pool.map(_look_at_object, part), strict=True))
    return found


def look_at(uri: str) -> Look | Trouble:
    """What one file looks like."""
    return _look_once([uri])[uri]


def hash_video(uri: str) -> str | Trouble:
    """SHA-256 of a file's bytes as 64 hex digits, or why it can't be read."""
    try:
        with open_video(uri) as file:
            digest, size = hashlib.sha256(), 0
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
            return digest.hexdigest() if size else Trouble("empty", f"{uri}: an empty file")
    except (DecodeError, OSError) as error:
        return trouble(uri, error)


@contextmanager
def open_video(uri: str) -> Iterator[Any]:
    """The file's bytes, wherever it lies. Raises DecodeError and OSError; a remote client's errors as OSError."""
    if not is_url(uri):
        require_regular_file(uri)
        with Path(uri).open("rb") as file:
            yield file
        return
    with _as_os_errors(uri), filesystem(_scheme(uri)).open(uri, "rb") as file:
        yield file


@contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """A path on this machine for as long as the block runs; a file of this machine is its own copy."""
    if not is_url(uri):
        yield uri
        return
    # The name's ending stays: some formats are told by nothing else.
    copy = new_file(suffix=Path(urlsplit(uri).path).suffix[:16])
    try:
        with open_video(uri) as file, copy.open("wb") as written:
            while chunk := file.read(_CHUNK):
                written.write(chunk)
        yield str(copy)
    finally:
        copy.unlink()


def trouble(uri: str, error: Exception) -> Trouble:
    """An exception met while looking at or reading a file, as a kind and a message that name it."""
    if isinstance(error, DecodeError):
        return Trouble(error.kind, str(error).replace("\n", " "))
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return Trouble("machine", f"{uri}: {error.strerror} on {socket.gethostname()}")
    kind: Fault = "network"
    if not is_url(uri) or isinstance(error, PermissionError):
        kind = opening_fault(error)
    elif isinstance(error, FileNotFoundError):
        kind = "missing"
    # A remote client's "not found" holds the address and nothing else.
    reason = FAULTS[kind] if is_url(uri) and kind == "missing" else getattr(error, "strerror", None) or error
    return Trouble(kind, f"{uri}: {reason}".replace("\n", " "))


ResultT = TypeVar("ResultT")


def persist(attempt: Callable[[], ResultT | Trouble], attempts: int, backoff_s: float) -> tuple[ResultT | Trouble, int]:
    """Try again after a transient trouble, waiting twice as long each time; returns the outcome and the tries made."""
    for number in range(1, attempts + 1):
        outcome = attempt()
        if not (isinstance(outcome, Trouble) and outcome.kind in TRANSIENT) or number == attempts:
            return outcome, number
        time.sleep(backoff_s * 2 ** (number - 1))
    raise ValueError("attempts must be positive")


def _look_at_files(paths: Sequence[str]) -> dict[str, Look | Trouble]:
    return {path: _look_at_file(path) for path in paths}


def _look_at_file(path: str) -> Look | Trouble:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path for each of a million names takes longer than the call
    except (OSError, ValueError) as error:
        return trouble(path, error)
    if not stat.S_ISREG(status.st_mode):
        return Trouble("not_a_video", f"{path}: not a regular file")
    return Look(status.st_size, f"mtime:{status.st_mtime_ns}")


def _list_folder(group: tuple[str, Sequence[str]]) -> dict[str, Mapping[str, Any]]:
    """The entries of a remote folder by uri, where it can be listed and that pays."""
    folder, uris = group
    scheme = _scheme(folder)
    if len(uris) < _FOLDER_PAYS or scheme in ("http", "https"):
        return {}
    wanted = {uri.split("://", 1)[1]: uri for uri in uris}
    try:
        with _as_os_errors(folder):
            entries = filesystem(scheme).ls(folder, detail=True)
    except OSError:
        return {}  # the folder may not be listed, and its files be read all the same
    return {wanted[entry["name"]]: entry for entry in entries if entry["name"] in wanted}


def _look_at_object(uri: str) -> Look | Trouble:
    try:
        with _as_os_errors(uri):
            return _as_look(uri, filesystem(_scheme(uri)).info(uri))
    except OSError as error:
        return trouble(uri, error)


def _as_look(uri: str, entry: Mapping[str, Any]) -> Look | Trouble:
    if entry.get("type") == "directory":
        return Trouble("not_a_video", f"{uri}: a folder")
    tag = entry.get("ETag") or entry.get("etag")
    times = (entry.get(name) for name in ("LastModified", "Last-Modified", "updated", "mtime"))
    modified = next(filter(None, times), "unknown")
    return Look(entry.get("size") or 0, f"etag:{tag}" if tag else f"modified:{modified}")


def _scheme(url: str) -> str:
    return url.split("://", 1)[0].lower()


def _parts(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (items[begin : begin + size] for begin in range(0, len(items), size))


@contextmanager
def _as_os_errors(url: str) -> Iterator[None]:
    """Remote clients raise what they like (no address, no credentials, a closed connection): one kind for all."""
    try:
        yield
    except FileNotFoundError as error:
        # The web client says so whatever has happened, and gives what did as the cause.
        cause = error.__cause__
        if cause is not None and _scheme(url) in ("http", "https") and getattr(cause, "status", None) not in (404, 410):
            raise OSError(f"{type(cause).__name__}: {cause}") from cause
        raise
    except (OSError, DecodeError, MgvrError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
