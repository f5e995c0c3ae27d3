"""What all reports share: their templates, and their JSON without a figure that is none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import TypeAdapter, ValidationError

from mgvr_core.errors import MgvrError


class _Versioned(Protocol):
    @property
    def schema(self) -> int: ...


_Document = TypeVar("_Document", bound=_Versioned)
_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~])")


def template(name: str) -> Template:
    """A template of ours by its file; in HTML all text is escaped, in Markdown every text passes the filter `text`."""
    environment = Environment(
        loader=PackageLoader("mgvr_core.evaluation"),
        autoescape=name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["text"] = escape
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return environment.get_template(name)


def escape(text: object) -> str:
    """Any text as one line of plain Markdown text, safe in a table cell."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def to_json(document: Mapping[str, Any], what: str) -> str:
    """A report's document as JSON text; raises MgvrError as `require_finite` does."""
    require_finite(document, what)
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def from_json(text: str, adapter: TypeAdapter[_Document], what: str, schema: int) -> _Document:
    """The document of a report's JSON text. Raises MgvrError where it is not `what`, or of a newer schema than ours."""
    try:
        document = adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise MgvrError(f"not {what}: {key or 'the document'}: {first['msg']}") from None
    if document.schema > schema:
        raise MgvrError(f"the report has schema {document.schema}, newer than {schema}: read it with a newer mgvr")
    return document


def require_finite(document: Mapping[str, Any], what: str, below: str = "") -> None:
    """Raise MgvrError where a number is NaN or infinite, naming its key; `below`: what stands before the keys."""
    for key, value in _numbers(below, document):
        if not math.isfinite(value):
            raise MgvrError(f"{what} key {key} is {value}: leave out what was not measured")


def _numbers(key: str, value: object) -> Iterator[tuple[str, float]]:
    """Every float of a JSON document with its dotted key."""
    if isinstance(value, float):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _numbers(f"{key}[{index}]", inner)
