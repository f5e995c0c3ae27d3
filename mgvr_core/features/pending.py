"""Work that is done and not yet part of a snapshot, as a run writes it down for whoever comes after it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from mgvr_core.features.contents import Failure, Key, Place, ShardInfo


@dataclass(frozen=True)
class Pending:
    """One shard's worth of it."""

    name: str
    fingerprint: str
    """Short name of what made it."""
    run: str
    """Which run made it: as long as that writes, all of its work may yet be committed."""
    shard: ShardInfo | None = None
    """None: nothing but failures."""
    ids: tuple[tuple[str, str], ...] = ()
    """Id and content hash of each row of the shard, in order."""
    failures: tuple[tuple[str, Failure], ...] = ()
    """Content hash and failure."""

    @property
    def places(self) -> Iterator[tuple[tuple[str, str], Place]]:
        """Where the features of each id and content hash lie."""
        if self.shard is not None:
            for row, content in enumerate(self.ids):
                yield content, Place(self.shard.path, row)


def written(
    fingerprint: str,
    run: str,
    shard: ShardInfo | None,
    ids: Sequence[tuple[str, str]],
    failures: Sequence[tuple[str, Failure]],
) -> bytes:
    """A record as the bytes of its file."""
    document = {
        "fingerprint": fingerprint,
        "run": run,
        "shard": None if shard is None else shard.to_json(),
        "ids": [list(pair) for pair in ids],
        "failures": [[digest, asdict(failure)] for digest, failure in failures],
    }
    return json.dumps(document).encode()


def read(name: str, data: bytes) -> Pending | None:
    """The inverse of `written`, under the file's name; None for what is no record: nothing in it is finished."""
    try:
        document = json.loads(data)
        return Pending(
            name=name,
            fingerprint=document["fingerprint"],
            run=document["run"],
            shard=None if document["shard"] is None else ShardInfo.from_json(document["shard"]),
            ids=tuple((video, digest) for video, digest in document["ids"]),
            failures=tuple(
                (digest, Failure(**{**values, "key": Key(*values["key"])})) for digest, values in document["failures"]
            ),
        )
    except (ValueError, KeyError, TypeError):
        return None
