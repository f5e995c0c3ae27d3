"""The annotation files of a benchmark: which of them are there, and what is in them, as far as formats are shared."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from mgvr_core.config import Section
from mgvr_core.datasets.tables import Rows, read_rows
from mgvr_core.errors import MgvrError
from mgvr_core.uris import is_unicode

_ENDING = re.compile(r"\.((?=\w*[A-Za-z])\w{2,4})?$")


class Annotations:
    """A folder of annotation files, or the test split's file, with the others looked for beside it.

    A file that is given is the test split's, whatever its name. `read` is every file that was asked for and found.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise MgvrError(
                f"the annotations {path} do not exist: give the folder of the annotation files, or one file"
            )
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        self.read: list[Path] = []

    def test(self, *names: str) -> Path:
        """The file of the test split: the one given, or the first of these names in the folder."""
        if self.path != self.folder:
            self.read.append(self.path)
            return self.path
        return self.need(*names)

    def need(self, *names: str) -> Path:
        """The first of these names in the folder; raises MgvrError where none is there."""
        file = self.find(*names)
        if file is None:
            raise MgvrError(f"{self.folder} has no {' and no '.join(names)}: put the file there (docs/benchmarks.md)")
        return file

    def find(self, *names: str) -> Path | None:
        """The first of these names in the folder, or None."""
        found = next((self.folder / name for name in names if (self.folder / name).is_file()), None)
        if found is not None:
            self.read.append(found)
        return found


def read_json(file: Path) -> Any:
    """The value in a JSON file; raises MgvrError where it can't be read, or where an object has a key twice."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=lambda pairs: _unique(pairs, file))
    except OSError as error:
        raise MgvrError(f"cannot read {file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise MgvrError(f"{file} is not UTF-8 text: save it as UTF-8") from None
    except ValueError as error:
        raise MgvrError(f"{file} is not valid JSON: {error}. Is the download whole?") from None


def _unique(pairs: list[tuple[str, Any]], file: Path) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise MgvrError(f"{file} has the key {twice!r} twice in one object: keep one of them")
    return values


def read_list(file: Path) -> list[str]:
    """The ids of a text file with one a line, in its order; raises MgvrError for one that is there twice."""
    ids: dict[str, int] = {}
    for number, line in read_lines(file):
        name = line.strip()
        if any(blank in name for blank in ("\t", " ", ",")):
            refuse(
                file, f"line {number}", f"{name[:60]!r} is not the id of a video: is this a list of ids, one a line?"
            )
        if ids.setdefault(name, number) != number:
            refuse(file, f"line {number}", f"the video {name!r} is listed in line {ids[name]} already: remove one")
    if not ids:
        raise MgvrError(f"{file} lists no videos")
    return list(ids)


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its end) of every line that is not blank."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except OSError as error:
        raise MgvrError(f"cannot read {file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise MgvrError(f"{file} is not UTF-8 text: save it as UTF-8") from None


def read_table(file: Path, columns: Section) -> Rows:
    """The columns of a CSV file, all of which must be there under their very names."""
    if file.suffix.lower() != ".csv":
        raise MgvrError(f"{file} is not a CSV file: its name must end in .csv (docs/benchmarks.md)")
    _, first = next(read_lines(file), (0, ""))
    header = next(csv.reader([first]), [])
    for name in columns.model_dump().values():
        if name not in header:
            raise MgvrError(
                f"{file} has no column {name!r}, but {', '.join(header) or 'nothing'}: is it another file of the set?"
            )
    return read_rows(file, columns, required=tuple(columns.model_dump()))


def caption(value: object, file: Path, place: str) -> str:
    """A caption with one blank between words, as CLIP's tokenizer reads it; MgvrError where it is empty or no text."""
    if not isinstance(value, str):
        refuse(file, place, f"the caption must be text, not {value!r}")
    if not is_unicode(value):
        refuse(file, place, f"the caption is not valid Unicode: {value!a}")
    text = " ".join(value.split())
    if not text:
        refuse(file, place, "the caption is empty: fill it in, or remove it")
    return text


def captions(value: object, file: Path, place: str) -> list[str]:
    """The captions of one video, from a list of them; at least one."""
    if not isinstance(value, list) or not value:
        refuse(file, place, f"must hold a list of captions, not {str(value)[:60]!r}")
    return [caption(one, file, f"{place}, caption {number}") for number, one in enumerate(value)]


def field(record: object, key: str, file: Path, place: str) -> Any:
    """`record[key]`; MgvrError where the record is no object or lacks the key."""
    if not isinstance(record, dict) or key not in record:
        has = f"has no {key!r}, but {', '.join(record)}" if isinstance(record, dict) else "is no JSON object"
        refuse(file, place, f"{has}: is it another file of the set?")
    return record[key]


def name(value: object, file: Path, place: str) -> str:
    """The id of a video."""
    if not isinstance(value, str) or not value.strip() or not is_unicode(value):
        refuse(file, place, f"the video's id must be text, not {value!r}")
    return value.strip()


def stem(file_name: str) -> str:
    """A file name without its ending: `a.mp4`, `a.` and `a` are `a`, and the number in `00.23.28.886` is no ending."""
    return _ENDING.sub("", file_name)


def refuse(file: Path, place: str, message: str) -> NoReturn:
    """Raise the MgvrError that names the file and the place in it."""
    raise MgvrError(f"{file}, {place}: {message}")
