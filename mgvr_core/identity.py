"""Content hashes and fingerprints: what made a feature, told from what it is and not from where it lay.

A fingerprint is a flat mapping of named parts (weights, activation, preprocessing, frame sampling, decoder and its
version, dtype, schema) and the hash over all of them. Two feature sets mix only if the hashes are equal; if not, the
parts that differ are named.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_CHUNK = 1 << 20


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes as 64 hex digits; raises OSError where it can't be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys, no blanks) as 64 hex digits."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def hash_lines(*values: object) -> str:
    """`hash_json` of values one after another, of which an iterator's are never held together."""
    digest = hashlib.sha256()
    for value in values:
        for item in value if isinstance(value, Iterator) else (value,):
            digest.update(f"{_canonical(item)}\n".encode())
    return digest.hexdigest()


def hash_arrays(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 over named arrays, in the order of their names: name, dtype, shape and bytes of each.

    One changed bit in one weight changes it; the file format or the order of the keys does not.
    """
    digest = hashlib.sha256()
    for name, array in sorted(arrays, key=lambda item: item[0]):
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Fingerprint:
    """The named parts that made a feature set. Values are strings, numbers, booleans or lists and mappings of them."""

    parts: Mapping[str, object]

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the hash over all parts: the fingerprint's short name."""
        return hash_json(dict(self.parts))[:16]

    def differences(self, other: Fingerprint, names: Iterable[str] | None = None) -> list[str]:
        """One line for every part (of `names`, or of all) in which the two differ."""
        wanted = sorted({*self.parts, *other.parts} if names is None else set(names))
        pairs = [(name, self._spelled(name), other._spelled(name)) for name in wanted]
        return [f"{name}: {mine} against {theirs}" for name, mine, theirs in pairs if mine != theirs]

    def _spelled(self, name: str) -> str:
        # As the digest sees it: 1 is not 1.0, and null is not absent, although Python's == and get() say so.
        return _canonical(self.parts[name]) if name in self.parts else "absent"


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
