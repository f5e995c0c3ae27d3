"""Every strange file beside the checkout, through the sandbox: what docs/decoding.md says of it, never a hang."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mgvr_core.video.decoders import FAULTS, DecodeError, Request
from mgvr_core.video.sampling import SamplingConfig
from mgvr_core.video.sandbox import Limits, Sandbox

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "decoding.md").read_text(encoding="utf-8")
# "odd/g_2x2.mp4" -> "encoded", or its fault
PROMISED = dict(re.findall(r"^\| `((?:odd|broken)/.+?)` \|.*\| `?(\w+)`? \|$", TEXT, re.M))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("pyav", Limits(timeout_s=30)) as sandbox:
        yield sandbox


def test_what_ffmpeg_shows_a_frame_of_is_decoded(sandbox: Sandbox, odd_clip: Path) -> None:
    request = Request(str(odd_clip), SamplingConfig(strategy="uniform"), 224)
    promised = PROMISED[f"odd/{odd_clip.name}"]
    if promised != "encoded":
        assert promised == "encrypted"  # its frames are noise without the key, whatever ffmpeg shows of them
        with pytest.raises(DecodeError) as caught:
            sandbox.decode(request)
        assert caught.value.kind == promised
        return
    clip = sandbox.decode(request)
    assert clip.frames.shape == (12, 224, 224, 3)
    assert np.all(np.diff(clip.timestamps) >= 0)
    assert clip.timestamps[0] >= 0
    assert clip.timestamps[-1] < clip.duration
    with (odd_clip.parents[1] / "odd_and_broken.csv").open(newline="") as table:
        rows = {row["file"]: int(row["frames_ffmpeg_5_1_decodes"]) for row in csv.DictReader(table)}
    assert len(np.unique(clip.timestamps)) <= rows[f"odd/{odd_clip.name}"]


def test_what_can_not_be_decoded_has_a_named_fault(sandbox: Sandbox, broken_clip: Path) -> None:
    request = Request(str(broken_clip), SamplingConfig(), 224)
    promised = PROMISED[f"broken/{broken_clip.name}"]
    if promised == "encoded":
        assert broken_clip.name.startswith("ff_vvc")  # today's libavcodec knows VVC
        sandbox.decode(request)
        return
    with pytest.raises(DecodeError) as caught:
        sandbox.decode(request)
    assert caught.value.kind == promised
    assert str(broken_clip) in str(caught.value)


def test_the_table_in_the_docs_has_a_row_for_every_file(shared: Path) -> None:
    files = {f"{folder}/{file.name}" for folder in ("odd", "broken") for file in (shared / "clips" / folder).iterdir()}
    assert set(PROMISED) == files
    assert set(PROMISED.values()) <= {"encoded", *FAULTS}
