"""The default decoder against reading the file from its start, frame after frame."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation

from mgvr_core.video import pyav
from mgvr_core.video.decoders import DecodeError, Request, decode
from mgvr_core.video.sampling import SamplingConfig, instants

SIZE = 224
SAMPLINGS = (SamplingConfig(), SamplingConfig(strategy="uniform"))


class Shown(NamedTuple):
    time: float
    square: np.ndarray


def square(frame: av.VideoFrame, size: int) -> np.ndarray:
    """The frame upright, its short side scaled to `size`, the middle cut out."""
    quarters = round(frame.rotation / 90)
    short = min(frame.width, frame.height)
    flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INP
    scaled = frame.reformat(
        frame.width * size // short, frame.height * size // short, "rgb24", interpolation=flags, threads=1
    )
    upright = np.rot90(scaled.to_ndarray(), quarters)
    top, left = (round((side - size) / 2) for side in upright.shape[:2])
    return upright[top : top + size, left : left + size]


def every_frame(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """All frames in order; what can't be decoded is passed over, as a player does."""
    for packet in container.demux(stream):
        with contextlib.suppress(av.FFmpegError):
            yield from packet.decode()


def read_from_the_start(path: Path, wanted: np.ndarray, size: int) -> tuple[dict[float, Shown], float]:
    """What is on at each wanted second, and when the last frame begins."""
    latest: dict[float, tuple[float, av.VideoFrame]] = {}
    origin = None
    newest = -1.0
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        stream.thread_count = 1  # damage is patched differently by several threads
        for number, frame in enumerate(every_frame(container, stream)):
            if container.format.name == "avi":
                # Its frames have no times: each is on for one step of the file's rate.
                time = float(number / stream.average_rate)
            elif frame.pts is None:
                time = number / 25
            else:
                origin = frame.pts if origin is None else origin
                time = float((frame.pts - origin) * stream.time_base)
            if time <= newest:
                continue  # late: only damaged files bring such frames
            newest = time
            for instant in wanted:
                if time <= instant + 1e-6:
                    latest[instant] = time, frame
    return {instant: Shown(time, square(frame, size)) for instant, (time, frame) in latest.items()}, newest


def agree(path: Path, *samplings: SamplingConfig) -> None:
    clips = [decode("pyav", Request(str(path), sampling, SIZE)) for sampling in samplings]
    wanted = [instants(clip.duration, sampling) for clip, sampling in zip(clips, samplings, strict=True)]
    shown, last = read_from_the_start(path, np.unique(np.concatenate(wanted)), SIZE)
    for clip, seconds in zip(clips, wanted, strict=True):
        assert clip.frames.dtype == np.uint8
        assert clip.frames.shape == (len(seconds), SIZE, SIZE, 3)
        assert last < clip.duration < last + 1.0
        np.testing.assert_allclose(clip.timestamps, [shown[second].time for second in seconds], atol=1e-9)
        for ours, second in zip(clip.frames, seconds, strict=True):
            np.testing.assert_array_equal(ours, shown[second].square)


def test_default_decoder_agrees_with_reading_from_the_start(good_clip: Path) -> None:
    agree(good_clip, *SAMPLINGS)


def test_default_decoder_agrees_with_reading_from_the_start_on_films_made_here(films, film_name: str) -> None:
    agree(films[film_name].path, *SAMPLINGS)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(),
        SamplingConfig(fps=12, frames=90),
        SamplingConfig(frames=1),
        SamplingConfig(strategy="uniform", frames=31),
    ],
    ids=lambda sampling: f"{sampling.strategy}-{sampling.fps:g}-{sampling.frames}",
)
def test_the_pictures_themselves_say_that_they_are_the_right_ones(
    films, film_name: str, sampling: SamplingConfig
) -> None:
    film = films[film_name]
    clip = decode("pyav", Request(str(film.path), sampling, 64))
    assert clip.duration == pytest.approx(film.duration, abs=2e-3)
    assert films.numbers(clip.frames) == film.expected(instants(film.duration, sampling))
    np.testing.assert_allclose(clip.timestamps, film.starts[films.numbers(clip.frames)], atol=1e-6)


def test_a_part_of_a_video_is_sampled_like_a_video_of_its_own(films, film_name: str) -> None:
    film = films[film_name]
    # 2 + 2/3 is not the number that 32/12 is; the frame that begins there must be found all the same.
    clip = decode("pyav", Request(str(film.path), SamplingConfig(fps=3), 64, start=2.0, end=3.5))
    assert films.numbers(clip.frames) == film.expected(2.0 + instants(1.5, SamplingConfig(fps=3)))
    assert clip.duration == pytest.approx(film.duration, abs=2e-3)  # the video's, not the part's


def test_a_part_may_reach_beyond_the_end_but_not_begin_there(films) -> None:
    path = str(films["bframes.mp4"].path)
    beyond = decode("pyav", Request(path, SamplingConfig(), 64, start=6.0, end=99.0))
    assert films.numbers(beyond.frames) == [72, 84]
    with pytest.raises(DecodeError, match=r"lasts 7\.500 s") as caught:
        decode("pyav", Request(path, SamplingConfig(), 64, start=7.5))
    assert caught.value.kind == "no_frames"


@pytest.mark.parametrize("place", [0.15, 0.3, 0.5])  # before the index that ends an mp4
@pytest.mark.parametrize("name", ["bframes.mp4", "open_gop.mp4", "bframes.mkv", "vp9.webm", "h264.ts"])
def test_a_damaged_file_gives_what_reading_it_in_order_gives(films, tmp_path: Path, name: str, place: float) -> None:
    data = bytearray(films[name].path.read_bytes())
    start = round(place * len(data))
    data[start : start + 40] = bytes(40)
    path = tmp_path / name
    path.write_bytes(data)
    agree(path, SamplingConfig(fps=6, frames=100))


@pytest.mark.parametrize("name", ["bframes.mp4", "open_gop_hevc.mp4", "bframes.mkv", "vp9.webm"])
def test_damaged_key_frames_are_patched_as_when_reading_in_order(films, tmp_path: Path, name: str) -> None:
    data = bytearray(films[name].path.read_bytes())
    with av.open(str(films[name].path)) as container:
        keys = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.is_keyframe]
    for position, size in keys[1:]:
        data[position + size // 2 : position + size // 2 + 8] = bytes(8)
    path = tmp_path / name
    path.write_bytes(data)
    agree(path, SamplingConfig(fps=1.5, frames=100))


@pytest.mark.parametrize(("name", "suffix"), [("hevc10.mkv", "mkv"), ("mpeg4.mp4", "mp4")])
def test_a_container_that_calls_every_frame_a_key_frame_is_not_believed(
    films, tmp_path: Path, name: str, suffix: str
) -> None:
    path = tmp_path / f"lying.{suffix}"
    with av.open(str(films[name].path)) as honest, av.open(str(path), "w") as lying:
        stream = lying.add_stream_from_template(honest.streams.video[0])
        for packet in honest.demux(video=0):
            if packet.size:
                packet.stream, packet.is_keyframe = stream, True
                lying.mux(packet)
    with av.open(str(path)) as lying:
        assert sum(packet.is_keyframe for packet in lying.demux(video=0)) == 90
    agree(path, SamplingConfig(fps=1.5, frames=100))


def test_a_file_cut_short_gives_what_is_left_of_it(films, tmp_path: Path) -> None:
    data = films["bframes.mkv"].path.read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: len(data) // 2])
    agree(path, SamplingConfig(fps=6, frames=100))


@pytest.mark.parametrize("name", ["bframes.mp4", "open_gop_hevc.mp4", "bframes.mkv", "vp9.webm", "av1.mp4"])
def test_only_what_is_near_the_wanted_frames_is_decoded(films, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("read in order")

    monkeypatch.setattr(pyav, "decode_in_order", refuse)
    film = films[name]
    for frames in (3, 5, 7, 11, 90):  # between them: frames right before, at and after key frames
        sampling = SamplingConfig(strategy="uniform", frames=frames)
        clip = decode("pyav", Request(str(film.path), sampling, 64))
        assert films.numbers(clip.frames) == film.expected(instants(film.duration, sampling))


@pytest.mark.parametrize("name", ["h264.ts", "bframes.avi", "mpeg2.mpg", "wmv2.wmv", "raw.h264", "mpeg4.mp4"])
def test_a_file_in_which_seeking_is_not_to_be_trusted_is_never_sought(
    films, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("sought")

    monkeypatch.setattr(pyav, "decode_by_entry_points", refuse)
    decode("pyav", Request(str(films[name].path), SamplingConfig(), 64))
