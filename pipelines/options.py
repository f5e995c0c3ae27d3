"""The command line of a job: one configuration file, and every key of it as an option."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from mgvr_core.config import ConfigT, Section, keys, load, read_yaml, section_of, suggest
from mgvr_core.errors import MgvrError

_TRUTHS = ("true", "false", "yes", "no", "on", "off")
"""What may follow a switch; any other word is the next one's."""


def read_options(kind: type[ConfigT], program: str, guide: str | None, argv: Sequence[str]) -> ConfigT:
    """The configuration from `[FILE.yaml] [--key value | --key=value | --switch …]`; --help prints the help and exits.

    Raises MgvrError for an unknown option (with the nearest key) and for every wrong value at once.
    """
    if any(word in ("-h", "--help") for word in argv):
        print(help_text(kind, program, guide))
        sys.exit(0)
    known = [name for name, _ in keys(kind)]
    switches = {name for name, field in keys(kind) if field.annotation is bool}
    file: Path | None = None
    overrides: dict[str, str] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            if file is not None:
                raise MgvrError(f"{program} takes one configuration file, but got {file} and {word}")
            file = Path(word)
            continue
        name, given, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if name not in known:
            raise MgvrError(f"unknown option --{name}{suggest(name, known) or '.'} {program} --help lists them all.")
        if not given and name in switches and not (words and words[0].lower() in _TRUTHS):
            value = "true"
        elif not given:
            if not words or words[0].startswith("--"):
                raise MgvrError(f"--{name} needs a value; one that begins with -- is given as --{name}=VALUE")
            value = words.pop(0)
        overrides[name] = value
    return load(kind, file, overrides, os.environ)


def given_keys(argv: Sequence[str]) -> set[str]:
    """The outermost keys that a command line gives, in its file or as options: for a job of more than one kind.

    What is wrong with them is for `read_options` to say.
    """
    words = [word.removeprefix("--").partition("=")[0].partition(".")[0] for word in argv if word.startswith("--")]
    found = {word.replace("-", "_") for word in words}
    for word in argv:
        if word.endswith((".yaml", ".yml")) and Path(word).is_file():
            with contextlib.suppress(MgvrError):
                found |= read_yaml(Path(word)).keys()
    return found


def help_text(kind: type[Section], program: str, guide: str | None) -> str:
    """What --help prints: the job's own guide, then every key with its default and meaning, group by group."""
    lines = [
        f"usage: {program} [CONFIG.yaml] [--key value …]",
        "",
        inspect.cleandoc(guide or ""),
        "",
        "Keys (in the YAML file, dots are nesting; on the command line: --key value):",
    ]
    group, introduced = "", {""}
    for name, field in keys(kind):
        head = name.rpartition(".")[0]
        if head != group:
            group = head
            lines.append("")
            if head not in introduced:
                introduced.add(head)
                lines.extend(_introduction(kind, head))
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else f"default {_show(default)}"
        about = f"{field.description or ''} [{_choices(field.annotation)}{shown}]".strip()
        lines.append(f"  --{name}")
        lines.extend(textwrap.wrap(about, width=100, initial_indent="        ", subsequent_indent="        "))
    return "\n".join(lines)


def _introduction(kind: type[BaseModel], group: str) -> list[str]:
    """What is said of a group as a whole, if anything: its description, and that it may be left out."""
    *parents, leaf = group.split(".")
    for parent in parents:
        kind = section_of(kind.model_fields[parent].annotation) or kind
    field = kind.model_fields[leaf]
    optional = " (optional)" if field.default is None else ""
    return [f"  {group}{optional}: {field.description}"] if field.description else []


def _show(value: Any) -> str:
    if value is None:
        return "none"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _choices(annotation: Any) -> str:
    options = [value for value in get_args(annotation) if isinstance(value, str)]
    return f"{' | '.join(options)}; " if options else ""
