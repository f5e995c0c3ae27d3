"""Looking into a feature set and keeping it in order, without a model and without Ray."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import Any

from pydantic import Field

from mgvr_core.config import Section
from mgvr_core.corpus.kinds import Kinds, picks
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.errors import MgvrError
from mgvr_core.features.contents import Change
from mgvr_core.features.layout import coding_of, describe
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.storage import StorePath
from pipelines.planning import corpus_name
from pipelines.runtime import summary


class SetConfig(Section):
    """Which feature set."""

    features: StorePath = Field(description="a feature set that mgvr encode wrote: a folder, s3:// or gs://")

    def store(self) -> FeatureStore:
        """The set; nothing is read yet."""
        return FeatureStore(self.features)


class PrintedConfig(SetConfig):
    """Which feature set, and for whom."""

    json_: bool = Field(False, alias="json", description="print JSON, for programs")


class StatusConfig(PrintedConfig):
    """mgvr corpus status."""


class FailuresConfig(PrintedConfig):
    """mgvr corpus failures."""

    snapshot: int | None = Field(None, gt=0, description="number of an older version; none: the current one")
    kinds: Kinds = Field(("all",), description="kinds of failure that are shown: their names, transient, or all")


class GcConfig(SetConfig):
    """mgvr corpus gc."""

    keep: int = Field(3, gt=0, description="newest versions that stay")
    older_than_h: float = Field(
        24.0, ge=0, description="hours; what is younger, or was the newest version within them, may be in use"
    )
    dry_run: bool = Field(False, description="print what would be removed, and remove nothing")


class DropConfig(SetConfig):
    """mgvr corpus drop."""

    corpus: str = Field(description="address of the corpus, as status prints it")


def status(config: StatusConfig) -> None:
    """What a set holds.

    Versions, sizes, corpora, failures by kind, unfinished work, and the last run.

      mgvr corpus status --features runs/features
    """
    store = config.store()
    if not store.latest() and (records := len(store.storage.entries("pending"))):
        unfinished = {"features": store.url, "snapshot": None, "pending_records": records}
        lines = {
            "feature set": f"{store.url}, no version yet",
            "unfinished": f"{records} parts of a run under way or killed: mgvr encode takes them up",
        }
        return print_json(unfinished) if config.json_ else print(summary("corpus status", lines))
    snapshot = store.snapshot()
    document = _status(store, snapshot)
    if config.json_:
        return print_json(document)
    run = document["last_run"]
    versions = ", ".join(str(number) for number in document["snapshots"][-10:])
    rows = {
        "feature set": f"{snapshot.url}, snapshot {snapshot.number} of {snapshot.created} (there are: {versions})",
        "videos": f"{snapshot.rows} encoded in {len(snapshot.shards)} shards, {document['failed']} failed",
        "failures": ", ".join(f"{kind} {count}" for kind, count in document["failures"].items()) or "none",
        **{f"corpus {name or '(unnamed)'}": f"{count} listed" for name, count in document["corpora"].items()},
        "size": f"{snapshot.bytes / 2**20:.1f} MiB, {snapshot.bytes / max(1, snapshot.rows) / 1024:.1f} KiB a video",
        "codec": describe(document["codec"]),
        "fingerprint": snapshot.fingerprint.digest,
        "model": str(snapshot.about.get("model", "unknown")),
        "unfinished": f"{document['pending_videos']} videos of a run under way or killed",
        "last run": f"{run['encoded']} videos encoded in {run['seconds']:.1f} s" if run else "not recorded",
    }
    print(summary("corpus status", rows))
    return None


def failures(config: FailuresConfig) -> None:
    """Every video that has no features, and why.

    A line for each: kind of failure, stage, times it was tried, time of the last try, message.

      mgvr corpus failures --features runs/features
      mgvr corpus failures --features runs/features --kinds corrupt,timeout --json
    """
    found = config.store().snapshot(config.snapshot).failed().to_pylist()
    rows = [row for row in found if picks(config.kinds, row["kind"])]
    if config.json_:
        return print_json(rows)
    lines = [f"{row['kind']:<16} {row['stage']:<7} {row['attempts']}x  {row['at']}  {row['message']}\n" for row in rows]
    kinds = Counter(row["kind"] for row in rows)
    total = f"{len(rows)} failures" + "".join(f", {kind} {count}" for kind, count in kinds.most_common())
    return _print("".join([*lines, total]))


def gc(config: GcConfig) -> None:
    """Remove old versions, and what killed runs have left that no version names.

    The newest versions stay, and whatever is younger than older_than_h.

      mgvr corpus gc --features runs/features --dry_run
      mgvr corpus gc --features runs/features --keep 10
    """
    store = config.store()
    store.snapshot()  # where there is no set, nothing is ours to remove
    rubbish = store.rubbish(config.keep, config.older_than_h * 3600)
    if not config.dry_run:
        store.remove(rubbish)
    verb = "would be removed" if config.dry_run else "removed"
    kept = ", ".join(map(str, rubbish.kept))
    print(f"corpus gc: {len(rubbish.files)} files, {rubbish.bytes / 2**20:.1f} MiB {verb}; versions kept: {kept}")
    if config.dry_run:
        for name in rubbish.files:
            print(f"  {name}")


def drop(config: DropConfig) -> Snapshot:
    """Take a corpus out of a set: a new version without its videos.

    Older versions keep them, until gc removes those. Videos that another corpus lists too stay.

      mgvr corpus drop --features runs/features --corpus /data/old-videos
    """
    store = config.store()
    snapshot = store.snapshot()
    sources = snapshot.sources()
    known = sorted({key.corpus for key in sources})
    name = config.corpus if config.corpus in known else corpus_name(CorpusConfig(uri=config.corpus))
    gone = [source for key, source in sources.items() if key.corpus == name]
    if not gone:
        raise MgvrError(f"{store.url} holds no corpus {config.corpus}; it holds: {', '.join(known) or 'none'}")
    about = {key: value for key, value in snapshot.about.items() if key != "run"}  # this was no run
    after = store.commit(snapshot.fingerprint, Change(gone=gone), {**about, "dropped": name})
    left = len(sources) - len(after.sources())
    print(f"corpus drop: {left} listed videos of {name} gone; snapshot {after.number}: {after.rows} videos")
    return after


def print_json(document: object) -> None:
    """A command's outcome for a program."""
    _print(json.dumps(document, indent=1, ensure_ascii=False))


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `| head` has seen enough; without this, Python would complain once more as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _status(store: FeatureStore, snapshot: Snapshot) -> dict[str, Any]:
    kinds = Counter(snapshot.failed()["kind"].to_pylist())
    pending = store.pending(snapshot.fingerprint)
    return {
        "features": snapshot.url,
        "snapshot": snapshot.number,
        "snapshots": store.numbers(),
        "created": snapshot.created,
        "rows": snapshot.rows,
        "shards": len(snapshot.shards),
        "bytes": snapshot.bytes,
        "codec": coding_of(snapshot.fingerprint),
        "failed": sum(kinds.values()),
        "failures": dict(kinds.most_common()),
        "corpora": dict(Counter(key.corpus for key in snapshot.sources())),
        "fingerprint": snapshot.fingerprint.digest,
        "made_with": dict(snapshot.fingerprint.parts),
        "model": snapshot.about.get("model"),
        "pending_videos": sum(len(record.ids) for record in pending),
        "last_run": snapshot.about.get("run"),
    }
