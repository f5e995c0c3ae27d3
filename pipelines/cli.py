"""The command `mgvr`: one subcommand a job."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from mgvr_core.config import suggest

_COMMANDS = {
    "demo": ("pipelines.demo", "the whole job on clips made on the spot: no data, no weights, no network"),
    "encode": ("pipelines.encode", "videos -> a feature set; run it again after the corpus has changed"),
    "corpus": (
        "pipelines.corpus",
        "a feature set and its corpus: plan, status, failures, verify, recode, gc and more",
    ),
    "train": ("pipelines.train", "captioned videos -> a model; with --scorer, the weights of another system's score"),
    "retrieve": ("pipelines.retrieve", "queries over a feature set -> answers and a metric report"),
    "sweep": ("pipelines.sweep", "retrieval systems over a grid, or trainings that differ in one thing -> one table"),
    "scorers": ("pipelines.scorers", "every score there is: its formula, source, what it reads and what it costs"),
    "dataset": ("pipelines.dataset", "a benchmark's annotation files -> manifests, and what your copy lacks"),
    "evaluate": ("pipelines.evaluate", "a similarity matrix or a TREC run -> figures by the benchmark's protocol"),
    "compare": ("pipelines.compare", "two runs side by side, paired query by query"),
    "doctor": ("pipelines.doctor", "what works on this machine, what does not, and what to do about it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns its exit code: 0 done, 1 failed, 2 the input or the configuration was refused."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    command, *rest = words
    if command == "--version":
        print(f"mgvr {version('mgvr')}")
        return 0
    if command not in _COMMANDS:
        print(f"mgvr: no command {command!r}{suggest(command, list(_COMMANDS))}\n\n{_help()}", file=sys.stderr)
        return 2
    # Imported when asked for: the help answers at once, and a broken optional package breaks its own command alone.
    module = importlib.import_module(_COMMANDS[command][0])
    code: int = module.run(rest)
    return code


def _help() -> str:
    width = max(len(name) for name in _COMMANDS)
    lines = [f"  {name:<{width}}  {about}" for name, (_, about) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: mgvr COMMAND [CONFIG.yaml] [--key value …]",
            "",
            "Multi-granularity video retrieval: from videos and text queries to a metric report, on Ray.",
            "",
            *lines,
            "",
            "mgvr COMMAND --help lists what a command reads, writes and can be told.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
