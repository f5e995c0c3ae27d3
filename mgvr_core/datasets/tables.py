"""The tables that users write (CSV, TSV, Parquet, JSONL), read by the names of their columns.

Errors name the line of a text file and the row of a Parquet file, both from 1. Text is UTF-8, with or without a byte
order mark. A blank cell, a null and a missing key mean the same: no value.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mgvr_core.config import Section, suggest
from mgvr_core.errors import MgvrError
from mgvr_core.uris import is_unicode

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".parquet", ".jsonl")


@dataclass(frozen=True)
class Rows:
    """The wanted columns of one file, by role; a column that the file lacks is all None."""

    file: Path
    numbers: Sequence[int]
    """The line (Parquet: the row) where each begins."""
    columns: Mapping[str, Sequence[object]]

    def __len__(self) -> int:
        return len(self.numbers)

    def error(self, row: int, message: str) -> MgvrError:
        """The error for the row at index `row`, with the file and the place in it."""
        return MgvrError(f"{self.file}, {self.place(row)}: {message}")

    def place(self, row: int) -> str:
        """`line 7`, where the row at index `row` is to be found."""
        return f"{'row' if self.file.suffix.lower() == '.parquet' else 'line'} {self.numbers[row]}"

    def texts(self, role: str) -> list[str | None]:
        """One text a row, or None. Whole numbers count as text: ids often are."""
        return [self._text(row, role, value) for row, value in enumerate(self.columns[role])]

    def text_lists(self, role: str) -> list[list[str]]:
        """The texts of every row, from a cell that holds a list of them or one."""
        cells = (value if isinstance(value, list) else [value] for value in self.columns[role])
        return [
            [text for value in cell if (text := self._text(row, role, value)) is not None]
            for row, cell in enumerate(cells)
        ]

    def floats(self, role: str) -> list[float | None]:
        """One finite number a row, or None."""
        return [self._float(row, role, value) for row, value in enumerate(self.columns[role])]

    def _text(self, row: int, role: str, value: object) -> str | None:
        if _is_blank(value):
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise self.error(row, f"{role} must be text, not {value!r}")
        if not is_unicode(value):
            raise self.error(row, f"{role} is not valid Unicode: {value!a}")
        return value

    def _float(self, row: int, role: str, value: object) -> float | None:
        if _is_blank(value):
            return None
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise self.error(row, f"{role} must be a number, not {value!r}")
        return number


def read_rows(file: Path, names: Section, required: Collection[str]) -> Rows:
    """Read the columns of a file that `names` gives for each role (`{"uri": "path"}`; None: leave the role out).

    A column must be there if its role is in `required` or if it was given a name other than the default. MgvrError
    names what is missing with the nearest column there is, and every unreadable file or malformed row.
    """
    wanted: dict[str, str | None] = names.model_dump()
    try:
        header, numbers, cells = _read(file, [name for name in wanted.values() if name is not None])
    except OSError as error:
        raise MgvrError(f"cannot read {file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise MgvrError(f"{file} is not UTF-8 text: save it as UTF-8") from None
    except (pa.ArrowInvalid, csv.Error) as error:
        raise MgvrError(f"{file} is not a well-formed {file.suffix} file: {error}") from None
    if not header:
        raise MgvrError(f"{file} is empty")
    for role, name in wanted.items():
        if name is not None and name not in header:
            must = role in required or name != type(names).model_fields[role].default
            _check_absence(file, role, name, [column for column in header if column not in wanted.values()], must)
    nothing: list[object] = [None] * len(numbers)
    return Rows(file, numbers, {role: cells.get(name or "", nothing) for role, name in wanted.items()})


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _check_absence(file: Path, role: str, name: str, others: Sequence[str], must: bool) -> None:
    """Raise if a column that is not there has to be, or seems to be there under a slip of the pen."""
    lower = {column.lower(): column for column in others}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.85)
    if near:
        advice = f"; did you mean {lower[near[0]]!r}? Set columns.{role} to it" + ("" if must else ", or to null")
    elif must:
        advice = f"{suggest(name, others)} It has: {', '.join(others)}. Set columns.{role} to one of them"
    else:
        return
    raise MgvrError(f"{file} has no column {name!r}{advice}")


_Read = tuple[Sequence[str], Sequence[int], dict[str, list[object]]]


def _read(file: Path, wanted: Sequence[str]) -> _Read:
    """All column names, where the rows begin, and the values of the wanted columns that are there."""
    suffix = file.suffix.lower()
    if suffix == ".jsonl":
        return _read_jsonl(file, wanted)
    if suffix == ".parquet":
        return _read_parquet(file, wanted)
    if suffix in DELIMITERS:
        return _read_delimited(file, wanted, DELIMITERS[suffix])
    raise MgvrError(f"{file} is not a table: its name must end in one of {', '.join(SUFFIXES)}")


def _read_delimited(file: Path, wanted: Sequence[str], delimiter: str) -> _Read:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        # strict: without it a quote that is never closed swallows all rows after it.
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] = []
        numbers: list[int] = []
        records: list[list[str]] = []
        number = 1
        for record in reader:
            if record and not header:
                header = record
            elif record and len(record) != len(header):
                raise MgvrError(f"{file}, line {number}: {len(record)} cells under {len(header)} columns")
            elif record:
                numbers.append(number)
                records.append(record)
            number = reader.line_num + 1
    twice = [name for name in wanted if header.count(name) > 1]
    if twice:
        raise MgvrError(f"{file} has the column {twice[0]!r} more than once")
    places = {name: header.index(name) for name in wanted if name in header}
    return header, numbers, {name: [record[place] for record in records] for name, place in places.items()}


def _read_parquet(file: Path, wanted: Sequence[str]) -> _Read:
    with pq.ParquetFile(file) as parquet:
        header = parquet.schema_arrow.names
        table = parquet.read(columns=[name for name in wanted if name in header])
        return header, range(1, parquet.metadata.num_rows + 1), table.to_pydict()


def _read_jsonl(file: Path, wanted: Sequence[str]) -> _Read:
    header: dict[str, None] = {}  # an ordered set
    numbers: list[int] = []
    cells: dict[str, list[object]] = {name: [] for name in wanted}
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise MgvrError(f"{file}, line {number}: not valid JSON: {error}") from None
            if not isinstance(record, dict):
                raise MgvrError(f"{file}, line {number}: must be a JSON object, not {line.strip()[:40]!r}")
            header.update(dict.fromkeys(record))
            numbers.append(number)
            for name in wanted:
                cells[name].append(record.get(name))
    return list(header), numbers, {name: cells[name] for name in wanted if name in header}
