"""Every strange file beside the checkout, through the sandbox: a clip or a named fault, never a hang."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mgvr_core.video.decoders import DecodeError, Request
from mgvr_core.video.sampling import SamplingConfig
from mgvr_core.video.sandbox import Limits, Sandbox

# Their frames are noise without the key; a player that has none shows grey blocks.
ENCRYPTED = {"ff_cbcs.mp4", "ff_prog_8s_enc_dashinit.mp4"}

BROKEN = {
    "ff_opus.mp4": "no_video_stream",
    "ff_stpp_prog.mp4": "no_video_stream",
    "g_audio_only.mp4": "no_video_stream",
    "g_html.mp4": "not_a_video",
    "g_opengop_start.mp4": "no_video_stream",
    "g_random.mp4": "not_a_video",
    "g_subs_only.mkv": "no_video_stream",
    "g_subs_only.mp4": "no_video_stream",
    "g_text.mp4": "not_a_video",
    "g_trunc_50pct.mp4": "truncated",
    "g_trunc_tail.mp4": "not_a_video",  # nothing in a file without its head says what it was
    "g_zero.mp4": "empty",
    "ne_bug2020502.webm": "truncated",
    "ne_issue76.webm": "no_frames",
    "ne_seek_encrypted.webm": "encrypted",
    "ne_subsample_encrypted.webm": "encrypted",
    "r_broken.mp4": "truncated",
    "r_wrongfile.mp4": "truncated",  # the first 48 bytes of an mp4
    "r_zero_bytes.webm": "empty",
    "sh_encrypted-sintel-video-segment.mp4": "fragment",
    "sh_h265-cea-segment.mp4": "fragment",
    "sh_sintel-video-segment.mp4": "fragment",
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("pyav", Limits(timeout_s=30)) as sandbox:
        yield sandbox


def test_what_ffmpeg_shows_a_frame_of_is_decoded(sandbox: Sandbox, odd_clip: Path) -> None:
    request = Request(str(odd_clip), SamplingConfig(strategy="uniform"), 224)
    if odd_clip.name in ENCRYPTED:
        with pytest.raises(DecodeError) as caught:
            sandbox.decode(request)
        assert caught.value.kind == "encrypted"
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
    if broken_clip.name.startswith("ff_vvc"):
        sandbox.decode(request)  # today's libavcodec knows VVC
        return
    with pytest.raises(DecodeError) as caught:
        sandbox.decode(request)
    assert caught.value.kind == BROKEN[broken_clip.name]
    assert str(broken_clip) in str(caught.value)
