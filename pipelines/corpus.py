"""A feature set and its corpus: what a run would do, what the set holds, what failed, and keeping it in order.

  mgvr corpus plan JOB.yaml               what `mgvr encode JOB.yaml` would do, changing nothing
  mgvr corpus status --features DIR       versions, sizes, failures by kind, unfinished work, the last run
  mgvr corpus failures --features DIR     every video without features, and why
  mgvr corpus retry --features DIR        encode again what failed, as the set was encoded
  mgvr corpus verify --features DIR       read a version again, and encode a sample of it again
  mgvr corpus recode --features DIR --out DIR --codec.values pq   code the features in less space, as another set
  mgvr corpus gc --features DIR           remove what no kept version names
  mgvr corpus drop --features DIR --corpus URI   take a corpus out of the set

`plan`, `status`, `failures` and `verify` print JSON with --json. Each command has its own --help.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from mgvr_core.config import Section, parse, suggest
from mgvr_core.corpus.kinds import Kinds
from mgvr_core.corpus.plan import decide
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.errors import JobError, MgvrError
from mgvr_core.features.contents import now
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.verify import verify
from pipelines.encode import EncodeConfig, encode, prepare
from pipelines.planning import compare_corpus, corpus_name, describe, plan_json, read_here, too_many_deleted
from pipelines.recoding import RecodeConfig, recode
from pipelines.reencoding import ReencodingConfig, reencode
from pipelines.resuming import finished
from pipelines.runtime import RayConfig, main, summary
from pipelines.upkeep import (
    DropConfig,
    FailuresConfig,
    GcConfig,
    PrintedConfig,
    SetConfig,
    StatusConfig,
    drop,
    failures,
    gc,
    print_json,
    status,
)


class PlanConfig(EncodeConfig):
    """mgvr corpus plan: takes all that mgvr encode takes."""

    json_: bool = Field(False, alias="json", description="print JSON, for programs")


class RetryConfig(SetConfig):
    """mgvr corpus retry."""

    kinds: Kinds = Field(("all",), description="kinds of failure to try again: their names, transient, or all")
    ray: RayConfig | None = Field(None, description="where it runs; none: as the set was encoded")


class VerifyConfig(PrintedConfig):
    """mgvr corpus verify."""

    snapshot: int | None = Field(None, gt=0, description="number of an older version; none: the current one")
    reencode: ReencodingConfig = ReencodingConfig()


def plan(config: PlanConfig) -> None:
    """What `mgvr encode` would do with the same options, and what that would take. Nothing is written.

    Files that look new or changed are read once, by this process, for the hash of their content.

      mgvr corpus plan jobs/encode.yaml
      mgvr corpus plan --corpus.uri videos/ --model.checkpoint runs/model --out runs/features --json
    """
    maker, store = prepare(config)
    compared = compare_corpus(config.corpus, store, config.tries_again, config.decoding)
    decided = decide(compared, read_here(compared, store, config.decoding), now())
    left = len(finished(store, maker.fingerprint, decided, config.tries_again).left)
    refused = too_many_deleted(decided, config.max_deleted_rate)
    if config.json_:
        return print_json({**plan_json(decided, store, left, config.price_per_hour), "refused": refused})
    rows = describe(decided, store, left, config.price_per_hour)
    print(summary("corpus plan", {**rows, **({"refused": refused} if refused else {})}))
    return None


def retry(config: RetryConfig) -> Snapshot:
    """Encode again what failed, of all corpora of a set, with the model and settings that the set keeps.

    A file that has changed since is tried whatever its kind of failure was. Exit code 1 where more than the set's
    max_failure_rate of them fail again.

      mgvr corpus retry --features runs/features
      mgvr corpus retry --features runs/features --kinds network,timeout
    """
    store = config.store()
    snapshot = store.snapshot()
    if "config" not in snapshot.about:
        raise MgvrError(f"{store.url} does not say how it was encoded: run mgvr encode with --retry all")
    kept = parse(EncodeConfig, snapshot.about["config"], f"snapshot {snapshot.number} of {store.url}")
    again = {"out": store.url, "retry": config.kinds, "ray": config.ray or kept.ray}
    corpora = sorted({key.corpus for key in snapshot.contents().failures})
    if "" in corpora:
        raise MgvrError(f"{store.url} was written before a set knew its corpora: run mgvr encode once with --retry all")
    if not corpora:
        print(f"corpus retry: nothing of {store.url} has failed")
    problems = []
    for name in corpora:
        corpus = kept.corpus if corpus_name(kept.corpus) == name else CorpusConfig(uri=name)
        try:
            encode(kept.model_copy(update={**again, "corpus": corpus}), only_retries=True)
        except JobError as error:  # the other corpora are tried all the same
            problems.append(str(error))
    if problems:
        raise JobError("\n".join(problems))
    return store.snapshot()


def verify_set(config: VerifyConfig) -> None:
    """Read a version again, all of it, and encode a sample of its videos again. Exit code 1 where it is not sound.

    What must hold: hashes of all files, schema, fingerprint, ids that are there once, finite numbers, unit vectors, and
    vectors of the sample that come out as they are stored.

      mgvr corpus verify --features runs/features
      mgvr corpus verify --features runs/features --reencode.videos 100 --json
    """
    snapshot = config.store().snapshot(config.snapshot)
    done = 0

    def show(rows: int) -> None:
        nonlocal done
        done += rows
        if sys.stderr.isatty():
            print(f"\r\x1b[Kverify: {done} of {snapshot.rows} rows", end="", file=sys.stderr, flush=True)

    found = verify(snapshot, show)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    again = reencode(snapshot, config.reencode)
    problems = [*found.problems, *again.problems]
    document = {
        "features": snapshot.url,
        "snapshot": snapshot.number,
        "shards": found.shards,
        "rows": found.rows,
        "encoded_again": again.videos,
        "skipped": list(again.skipped),
        "smallest_cosine": again.cosine,
        "problems": problems,
    }
    if config.json_:
        print_json(document)
    else:
        rows = {
            "feature set": f"{snapshot.url}, snapshot {snapshot.number}",
            "read": f"{found.rows} rows of {found.shards} shards",
            "encoded again": f"{again.videos} videos, smallest cosine "
            + ("none" if again.cosine is None else f"{again.cosine:.5f}"),
            **({"skipped": "\n    ".join(again.skipped)} if again.skipped else {}),
            "problems": "\n    ".join([str(len(problems)), *problems]),
        }
        print(summary("corpus verify", rows))
    if problems:
        raise JobError(f"snapshot {snapshot.number} of {snapshot.url} is not sound: {len(problems)} problems")


_COMMANDS: dict[str, tuple[type[Section], Callable[[Any], object]]] = {
    "plan": (PlanConfig, plan),
    "status": (StatusConfig, status),
    "failures": (FailuresConfig, failures),
    "retry": (RetryConfig, retry),
    "verify": (VerifyConfig, verify_set),
    "recode": (RecodeConfig, recode),
    "gc": (GcConfig, gc),
    "drop": (DropConfig, drop),
}


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of `mgvr corpus`; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0 if words else 2
    command, *rest = words
    if command not in _COMMANDS:
        print(f"mgvr corpus: no command {command!r}{suggest(command, list(_COMMANDS))}\n\n{__doc__}", file=sys.stderr)
        return 2
    kind, job = _COMMANDS[command]
    return main(kind, job, f"mgvr corpus {command}", job.__doc__, rest)


if __name__ == "__main__":
    sys.exit(run())
