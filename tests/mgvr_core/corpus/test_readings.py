"""What a run has read is not read again by the one that takes over."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgvr_core.corpus import readings
from mgvr_core.corpus.files import Look, Trouble
from mgvr_core.corpus.plan import Comparison, Content, Listed, compare
from mgvr_core.features.contents import Contents, Key
from mgvr_core.storage import LocalStorage

HASH = "a" * 64


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def listed(**looks: Look | Trouble) -> Comparison:
    videos = [Listed(Key("corpus", f"{name}.mp4"), None, look) for name, look in looks.items()]
    return compare(videos, Contents(), "corpus", lambda failure: False)


def test_a_file_that_looks_as_it_did_is_known(storage: LocalStorage) -> None:
    compared = listed(a=Look(1, "mtime:1"), b=Look(2, "mtime:1"), c=Look(3, "etag:x"))
    read = {"a.mp4": Content(HASH), "b.mp4": Content(Trouble("network", "gone")), "c.mp4": Content("c" * 64)}
    readings.keep(storage, compared, read)
    files = readings.names(storage)
    # What could not be read is read again, and so is what looks different now.
    assert readings.known(storage, files, compared) == {"a.mp4": Content(HASH), "c.mp4": Content("c" * 64)}
    later = listed(a=Look(1, "mtime:2"), b=Look(2, "mtime:1"), c=Look(3, "etag:x"))
    assert readings.known(storage, files, later) == {"c.mp4": Content("c" * 64)}
    assert readings.known(storage, files, listed(a=Trouble("missing", "gone"))) == {}


def test_what_is_forgotten_or_no_reading_is_not_known(storage: LocalStorage) -> None:
    compared = listed(a=Look(1, "mtime:1"))
    readings.keep(storage, compared, {"a.mp4": Content(HASH)})
    files = readings.names(storage)
    storage.put("hashed/cut.json", b'[["a.mp4", 1, ')
    assert readings.known(storage, ("hashed/cut.json",), compared) == {}
    readings.forget(storage, files)
    readings.forget(storage, files)  # as two runs at once would
    assert readings.names(storage) == ("hashed/cut.json",)
    assert readings.known(storage, files, compared) == {}
