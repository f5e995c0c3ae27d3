from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Write = Callable[[str, Sequence[Mapping[str, object]]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the same records as .csv, .tsv, .jsonl or .parquet, by the name's ending."""

    def write_rows(name: str, records: Sequence[Mapping[str, object]]) -> Path:
        file = tmp_path / name
        if file.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist([dict(record) for record in records]), file)
        elif file.suffix == ".jsonl":
            file.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
        else:
            with file.open("w", encoding="utf-8", newline="") as out:
                writer = csv.DictWriter(out, list(records[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(records)
        return file

    return write_rows
