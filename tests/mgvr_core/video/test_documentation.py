"""docs/decoding.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path

from mgvr_core.video.decoders import FAULTS, HANDED_ON, TRANSIENT

HERE = Path(__file__).parent
TEXT = (HERE.parents[2] / "docs" / "decoding.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_every_fault_is_listed_with_its_meaning_and_whether_it_is_tried_again() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (.+?) \| (yes)? ?\|$", section("Faults"), re.M)
    assert listed == [(fault, words, "yes" if fault in TRANSIENT else "") for fault, words in FAULTS.items()]


def test_the_faults_that_go_to_the_fallback_are_listed() -> None:
    sentence = section("The fallback").split(": faults that")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) == HANDED_ON


def test_every_test_that_it_names_exists() -> None:
    file, named = "", re.findall(r"`(test_\w+\.py)?(?:::(test_\w+))?`", TEXT)
    assert len([name for _, name in named if name]) > 10
    for each, name in named:
        file = each or file
        assert not name or f"def {name}(" in (HERE / file).read_text(encoding="utf-8"), f"{file}::{name}"
