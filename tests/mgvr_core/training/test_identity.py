"""Which run a folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgvr_core.errors import MgvrError
from mgvr_core.identity import Fingerprint
from mgvr_core.training.identity import claim, require_same

RUN = Fingerprint({"loss": {"video": 0.5}, "epochs": 5, "data": {"train": "abc"}})


def changed(**parts: object) -> Fingerprint:
    return Fingerprint({**RUN.parts, **parts})


def test_an_empty_folder_is_anyones(tmp_path: Path) -> None:
    require_same(tmp_path / "new", RUN)
    claim(tmp_path / "new", RUN)
    claim(tmp_path / "new", RUN)
    require_same(tmp_path / "new", changed())


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    claim(tmp_path, RUN)
    with pytest.raises(MgvrError, match=r"holds another run:\n  epochs: 5 against 6\n.*--out.*--restart yes"):
        claim(tmp_path, changed(epochs=6))
    require_same(tmp_path, RUN)


def test_some_parts_can_be_looked_at_before_the_others_are_known(tmp_path: Path) -> None:
    claim(tmp_path, RUN)
    known = Fingerprint({name: RUN.parts[name] for name in ("loss", "epochs")})
    require_same(tmp_path, known, known.parts)
    with pytest.raises(MgvrError, match="loss: "):
        require_same(tmp_path, Fingerprint({**known.parts, "loss": {"video": 1.0}}), known.parts)
    with pytest.raises(MgvrError, match="data: "):
        require_same(tmp_path, changed(data={"train": "abd"}))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(MgvrError, match=r"run\.json can't be read.*--restart yes"):
        require_same(tmp_path, RUN)
