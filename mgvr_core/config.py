"""Typed configuration: a YAML file, every key overridable on the command line, unknown keys refused.

A job's configuration is a pydantic model made of `Section`s. `load` merges (defaults < file < command line), and
everything that can be checked without starting a cluster is checked here, in one place, before anything starts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from mgvr_core.errors import MgvrError


class Section(BaseModel):
    """A group of settings. Unknown keys are errors, values are checked, and an instance never changes."""

    # A field is described by the docstring below it or by its `description`: --help shows either.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


ConfigT = TypeVar("ConfigT", bound=Section)


def _local(name: str) -> str:
    if "://" in name:
        raise ValueError("must be a folder or file on this machine; object stores are not written or read yet")
    return name


LocalPath = Annotated[str, AfterValidator(_local)]
"""A path of the file system. A URL would be taken for a relative path, on every machine another."""


def load(
    kind: type[ConfigT], file: Path | None, overrides: Mapping[str, str], environment: Mapping[str, str] | None = None
) -> ConfigT:
    """The configuration of `kind` from a YAML file and dotted overrides (`{"sampling.fps": "2"}`).

    In the file `${NAME}` and `${NAME:-default}` stand for values of `environment`: where data lies differs between a
    laptop and a cluster, what a job does need not. Override values are texts where the key holds a text,
    and otherwise read as YAML, so that `2`, `true`, `null` and `[a, b]` mean what they mean in the file.
    Raises MgvrError with one line for every key that is unknown (with the nearest known one) or wrong.
    """
    merged: dict[str, Any] = {}
    if file is not None:
        merged = _expand(read_yaml(file), environment or {}, str(file))
    annotations = {name: field.annotation for name, field in keys(kind)}
    for dotted, text in overrides.items():
        assign(merged, dotted, _read_value(text, annotations.get(dotted)))
    return parse(kind, merged, source=str(file) if file else "the command line")


def parse(kind: type[ConfigT], values: Mapping[str, Any], source: str) -> ConfigT:
    """Validate a plain mapping; `source` is named in the errors."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        lines = [_explain(kind, details) for details in error.errors()]
        raise MgvrError("\n".join([f"configuration from {source} is not valid:", *lines])) from None


def keys(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a configuration with its pydantic field, in the order of definition."""
    for name, field in kind.model_fields.items():
        section = section_of(field.annotation)
        if section is None:
            yield prefix + (field.alias or name), field
        else:
            yield from keys(section, f"{prefix}{name}.")


def section_of(annotation: object) -> type[BaseModel] | None:
    """The settings group behind a field's annotation (an optional group too), or None for a plain value."""
    if get_origin(annotation) in (tuple, list, dict):  # many groups, which only a file can spell out
        return None
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def read_yaml(file: Path) -> dict[str, Any]:
    """The keys and values of a configuration file as they stand there; raises MgvrError where it is none."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except IsADirectoryError:
        raise MgvrError(
            f"{file} is a folder, and only a configuration file goes without the name of an option: --help lists those"
        ) from None
    except OSError as error:
        raise MgvrError(f"cannot read the configuration file {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MgvrError(f"{file} is not a YAML file: {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise MgvrError(f"{file} must hold keys and values at its top level, not a {type(document).__name__}")
    return document


_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def _expand(value: Any, environment: Mapping[str, str], where: str) -> Any:
    """Every `${NAME}` and `${NAME:-default}` in the texts of a file, from the environment given."""
    if isinstance(value, dict):
        return {key: _expand(inner, environment, f"{where}: {key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, environment, where) for inner in value]
    if not isinstance(value, str):
        return value

    def replace(found: re.Match[str]) -> str:
        name, default = found.groups()
        if (text := environment.get(name, default)) is None:
            raise MgvrError(
                f"{where}: the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
            )
        return text

    return _VARIABLE.sub(replace, value)


def _read_value(text: str, annotation: object) -> Any:
    """The value behind a word of the command line. A path like `clip #1.mp4` must not be read as YAML."""
    union = get_origin(annotation) in (Union, UnionType)
    options = get_args(annotation) if union else (annotation,)
    if str in options or LocalPath in options:
        return None if text == "null" and NoneType in options else text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if get_origin(annotation) is tuple and isinstance(value, str):
        return [word.strip() for word in value.split(",")]  # one word, or several between commas, are a list as well
    return value


def assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a key by its dotted name; raises MgvrError where a plain value stands in the way."""
    *parents, leaf = dotted.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if inner is None:  # a group whose keys are all commented out
            inner = values[parent] = {}
        if not isinstance(inner, dict):
            raise MgvrError(f"--{dotted}: {parent} is a plain value in the file, not a group of keys")
        values = inner
    values[leaf] = value


def _explain(kind: type[BaseModel], details: ErrorDetails) -> str:
    path = [str(part) for part in details["loc"]]
    dotted = ".".join(path)
    if details["type"] == "extra_forbidden":
        settings = [name for name, _ in keys(kind)]
        groups = [name[:at] for name in settings for at, letter in enumerate(name) if letter == "."]
        return f"  {dotted}: unknown key{suggest(dotted, [*settings, *groups])}"
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "missing":
        return f"  {dotted}: required, but not given"
    given = "" if not path or isinstance(details["input"], dict) else f" (given: {details['input']!r})"
    return f"  {dotted or 'as a whole'}: {message}{given}"


def suggest(unknown: str, known: Sequence[str]) -> str:
    """`; did you mean …?` for the nearest known key, or nothing where none is near."""
    near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.5)
    if not near:
        leaf = unknown.rsplit(".", 1)[-1]
        leaves = {name.rsplit(".", 1)[-1]: name for name in known}
        near = [leaves[hit] for hit in difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.6)]
    return f"; did you mean {near[0]}?" if near else ""
