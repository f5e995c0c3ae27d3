"""The texts to search for, and the ids of the videos that are right answers to them.

A corpus manifest with captions is a query file as well, each caption a query with its video as the right answer:

    columns: {id: null, text: captions, relevant: id}      # or text: caption

There `id` names videos, not queries, hence null. Where a manifest has no ids, encode it with `ids: path` and give its
uri column as `relevant`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from mgvr_core.config import Section
from mgvr_core.datasets.tables import DELIMITERS, Rows, read_rows
from mgvr_core.errors import MgvrError
from mgvr_core.identity import hash_json
from mgvr_core.uris import to_local

QUERIES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("relevant", pa.list_(pa.string()), nullable=False),
    ]
)


class QueryColumnsConfig(Section):
    """The names of a query file's columns; null leaves one out."""

    id: str | None = "id"
    """The query's own id. Without one it is made from the text and the right answers, never from the row's place."""
    text: str = "text"
    """One text, or a list of them: then each is a query."""
    relevant: str | None = "relevant"
    """The ids of the right videos: a list (Parquet, JSONL) or one; in CSV and TSV several stand in one cell."""


class QueriesConfig(Section):
    """Where the queries are."""

    uri: str
    """A table of queries: .csv, .tsv, .parquet or .jsonl."""
    columns: QueryColumnsConfig = QueryColumnsConfig()
    separator: str | None = ";"
    """What parts several ids in one cell of CSV and TSV; null where the ids themselves hold it."""


def read_queries(config: QueriesConfig) -> pa.Table:
    """The queries as a table with the schema `QUERIES`, in the order of the file.

    Rows with the same id and text, or without ids with the same text and right answers, are one query. A query
    without right answers is a plain search: its list is empty. Raises MgvrError, with the file and row, for an empty
    text, for an id that stands for two texts, and for whatever can't be read.
    """
    file = Path(to_local(config.uri))
    rows = read_rows(file, config.columns, required=("text",))
    texts: dict[str, str] = {}
    answers: dict[str, dict[str, None]] = {}  # an ordered set a query
    for row, name, text, relevant in _pairs(rows, _relevant(rows, config)):
        name = name or _derived_id(text, relevant)
        if texts.setdefault(name, text) != text:
            raise rows.error(
                row,
                f"the id {name!r} stands for two texts, {texts[name]!r} and {text!r}. Give each query an id of its "
                "own, or, if these are the ids of videos, set columns.id to null and columns.relevant to this column",
            )
        answers.setdefault(name, {}).update(dict.fromkeys(relevant))
    if not texts:
        raise MgvrError(f"{file} holds no queries")
    return pa.table([list(texts), list(texts.values()), [list(answers[name]) for name in texts]], schema=QUERIES)


def _pairs(rows: Rows, relevant: list[list[str]]) -> Iterator[tuple[int, str | None, str, list[str]]]:
    """(row, id, text, right answers) for every text of every row."""
    cells = zip(rows.columns["text"], rows.text_lists("text"), rows.texts("id"), relevant, strict=True)
    for row, (cell, texts, name, right) in enumerate(cells):
        # A list without texts is a video without captions; an empty cell is a slip.
        if not texts and not isinstance(cell, list):
            raise rows.error(row, "the text is empty: fill it in or remove the row")
        for text in texts:
            yield row, name, text, right


def _relevant(rows: Rows, config: QueriesConfig) -> list[list[str]]:
    lists = rows.text_lists("relevant")
    if config.separator is None or rows.file.suffix.lower() not in DELIMITERS:
        return lists
    parts = ([part.strip() for text in texts for part in text.split(config.separator)] for texts in lists)
    return [[part for part in cell if part] for cell in parts]


def _derived_id(text: str, relevant: list[str]) -> str:
    return f"q-{hash_json([text, sorted(set(relevant))])[:16]}"
