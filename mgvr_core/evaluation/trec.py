"""TREC run files and qrels, so that other tools (ir-measures, trec_eval) can check our figures.

Run line: `query Q0 document rank score tag`. Qrels line: `query 0 document 1`. Columns are parted by blanks, so an id
is written with its white space, control characters and `%` percent-encoded (as UTF-8), which reading undoes; an empty
id can't be written and is refused.

Evaluators ignore the rank column: they sort by score and break ties by document id. A two-stage list has no score
that could be sorted (reranked candidates carry fused scores, the rest coarse ones), so the score column is
`length - rank + 1`: whole, positive, strictly falling, and exact in the 32-bit floats of trec_eval up to 16 million
documents. Sorting by it gives our order back. The scores themselves are in the per-query results.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from mgvr_core.errors import MgvrError
from mgvr_core.files import replacing

_UNSAFE = re.compile(r"[\s%\x00-\x1f\x7f\ud800-\udfff]")  # lone surrogates: file names that are not UTF-8


def encode_id(name: str) -> str:
    """An id as one column of a TREC file; raises MgvrError for the empty one."""
    if not name:
        raise MgvrError("an id is empty, which a TREC file cannot hold: give every query and video an id")
    return _UNSAFE.sub(lambda found: quote(found[0].encode("utf-8", "surrogatepass"), safe=""), name)


def decode_id(column: str) -> str:
    """The id that `encode_id` wrote."""
    return unquote(column, errors="surrogatepass")


def write_run(path: Path, lists: Iterable[tuple[str, Sequence[str]]], tag: str) -> None:
    """Write (query id, document ids, best first) pairs as they come; the file appears when all are written."""
    tag = encode_id(tag)
    with replacing(path) as file:
        for query, documents in lists:
            name = encode_id(query)
            for rank, document in enumerate(documents, start=1):
                score = len(documents) - rank + 1
                file.write(f"{name} Q0 {encode_id(document)} {rank} {score} {tag}\n")


def write_qrels(path: Path, right: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Write (query id, ids of its right documents) pairs; a right document outside the pool belongs here too."""
    with replacing(path) as file:
        for query, documents in right:
            name = encode_id(query)
            file.writelines(f"{name} 0 {encode_id(document)} 1\n" for document in documents)


def read_run(path: Path) -> dict[str, list[tuple[str, float]]]:
    """Query id -> (document id, score) in an evaluator's order: by score, ties by id, both descending."""
    lists: dict[str, list[tuple[str, float]]] = {}
    for number, (query, _, document, _, score, _) in _columns(path, 6):
        if (value := _number(score)) is None:
            raise MgvrError(f"{path}, line {number}: the score {score!r} is not a number")
        lists.setdefault(query, []).append((document, value))
    # trec_eval's rule for equal scores.
    return {query: sorted(found, key=lambda hit: (hit[1], hit[0]), reverse=True) for query, found in lists.items()}


def read_qrels(path: Path) -> dict[str, list[str]]:
    """Query id -> ids of its right documents (relevance above 0), in the order of the file."""
    right: dict[str, list[str]] = {}
    for number, (query, _, document, relevance) in _columns(path, 4):
        if not relevance.lstrip("-").isdecimal():
            raise MgvrError(f"{path}, line {number}: the relevance {relevance!r} is not a whole number")
        found = right.setdefault(query, [])
        if int(relevance) > 0:
            found.append(document)
    return right


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _columns(path: Path, count: int) -> Iterator[tuple[int, list[str]]]:
    """Line number and decoded columns of every line that is not blank."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            columns = line.split()
            if not columns:
                continue
            if len(columns) != count:
                raise MgvrError(f"{path}, line {number}: {len(columns)} columns where a TREC file has {count}")
            yield number, [decode_id(column) for column in columns]
