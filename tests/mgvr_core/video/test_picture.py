"""What of a frame reaches the model: upright, the right colours, the right stream."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from mgvr_core.video.decoders import Clip, Request, decode
from mgvr_core.video.sampling import SamplingConfig, instants

LOSSLESS = {"qp": "0"}


def picture(height: int = 64, width: int = 64) -> np.ndarray:
    """Four quarters: red and green above, blue and white below."""
    quarters = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    return quarters.repeat(height // 2, 0).repeat(width // 2, 1)


def corners(frame: np.ndarray) -> list[str]:
    """The colours of the four quarters: above left, above right, below left, below right."""
    names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 1): "white"}
    near, far = len(frame) // 4, 3 * len(frame) // 4
    return [names[tuple(frame[y, x] > 128)] for y in (near, far) for x in (near, far)]


def read(path: Path, size: int = 64, **options: object) -> Clip:
    return decode("pyav", Request(str(path), SamplingConfig(**options), size))


@pytest.mark.parametrize(
    ("degrees", "hflip", "vflip", "seen"),
    [
        (0, False, False, ["red", "green", "blue", "white"]),
        # Degrees count counterclockwise: a phone held upright stores -90, and its pictures are turned clockwise.
        (-90, False, False, ["blue", "red", "white", "green"]),
        (90, False, False, ["green", "white", "red", "blue"]),
        (180, False, False, ["white", "blue", "green", "red"]),
        (0, True, False, ["green", "red", "white", "blue"]),
        (0, False, True, ["blue", "white", "red", "green"]),
    ],
)
def test_a_frame_is_turned_and_mirrored_as_a_viewer_shows_it(
    films, tmp_path: Path, degrees: int, hflip: bool, vflip: bool, seen: list[str]
) -> None:
    pictures = [picture(64, 128)] * 12
    path = films.write(
        tmp_path / "turned.mp4",
        pictures,
        options=LOSSLESS,
        prepare=lambda stream: stream.set_display_rotation(degrees, hflip, vflip),
    )
    clip = read(path)
    assert corners(clip.frames[0]) == seen
    assert (clip.width, clip.height) == ((64, 128) if abs(degrees) == 90 else (128, 64))


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "name"),
    [
        ("libx264", "yuv420p", "plain.mp4"),
        ("libx264", "yuvj420p", "full_range.mp4"),
        ("libx264", "yuv444p10le", "ten_bits.mkv"),
        ("ffv1", "bgr0", "rgb.mkv"),
        ("png", "rgba", "alpha.mov"),
    ],
)
def test_black_white_and_colours_come_out_whatever_the_pixel_format(
    films, tmp_path: Path, codec: str, pix_fmt: str, name: str
) -> None:
    pictures = [picture(), np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)]
    options = LOSSLESS if codec == "libx264" else {}
    path = films.write(tmp_path / name, pictures, codec, options, pix_fmt=pix_fmt)
    clip = read(path, strategy="uniform", frames=3)
    quarters = clip.frames[0].reshape(2, 32, 2, 32, 3).swapaxes(1, 2).reshape(4, -1, 3)
    expected = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    np.testing.assert_allclose(np.median(quarters, axis=1), expected, atol=4)
    assert clip.frames[1].max() <= 2
    assert clip.frames[2].min() >= 253


def test_a_grey_video_stays_grey(films, tmp_path: Path) -> None:
    path = films.write(tmp_path / "grey.mkv", [np.full((64, 64, 3), 200, np.uint8)] * 3, "ffv1", pix_fmt="gray")
    np.testing.assert_allclose(read(path).frames, 200, atol=2)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (63, 65), (20, 500), (500, 20), (241, 321)])
def test_any_size_and_shape_fills_the_square_from_its_middle(films, tmp_path: Path, height: int, width: int) -> None:
    half = np.zeros((height, width, 3), np.uint8)
    half[:, width // 2 :] = 255
    path = films.write(tmp_path / "shape.mkv", [half] * 2, "ffv1", pix_fmt="bgr0")
    frame = read(path, size=48).frames[0]
    assert frame.shape == (48, 48, 3)
    assert frame[:, :8].mean() < 64
    assert frame[:, -8:].mean() > 192


def test_pixels_count_as_square_whatever_the_sample_aspect_ratio_says(films, tmp_path: Path) -> None:
    def anamorphic(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    pictures = [films.numbered(1)] * 3
    clip = read(films.write(tmp_path / "wide.mp4", pictures, prepare=anamorphic))
    assert (clip.width, clip.height) == (64, 64)
    assert films.numbers(clip.frames) == [1]


def test_a_frame_is_shown_until_the_next_one_begins(films, tmp_path: Path) -> None:
    times = np.array([0.0, 0.5, 3.2, 3.9])
    path = films.write(tmp_path / "uneven.mp4", [films.numbered(number) for number in range(4)], times=times)
    clip = read(path, fps=10, frames=1000)
    wanted = instants(clip.duration, SamplingConfig(fps=10, frames=1000))
    assert films.numbers(clip.frames) == (np.searchsorted(times, wanted + 1e-6, side="right") - 1).tolist()
    np.testing.assert_allclose(clip.timestamps, times[films.numbers(clip.frames)])
    assert clip.duration > 3.9
    assert films.numbers(read(path, fps=0.5).frames)[:2] == [0, 1]


def test_times_count_from_the_first_frame_wherever_the_file_begins(films, tmp_path: Path) -> None:
    times = [10000 + number / 10 for number in range(30)]
    path = films.write(tmp_path / "late.mkv", [films.numbered(number) for number in range(30)], times=times)
    clip = read(path)
    assert films.numbers(clip.frames) == [0, 10, 20]
    np.testing.assert_allclose(clip.timestamps, [0, 1, 2])
    assert 2.9 < clip.duration < 3.1


def remux(source: Path, target: Path, options: dict[str, str], earlier: float = 0.0) -> Path:
    """The same packets in another file, their times `earlier` by so many seconds."""
    with av.open(str(source)) as given, av.open(str(target), "w", options=options) as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                if earlier:
                    shift = round(earlier / packet.time_base)
                    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                made.mux(packet)
    return target


def test_what_an_edit_list_hides_is_not_shown_and_time_begins_behind_it(films, tmp_path: Path) -> None:
    # A muxer that may not move times below 0 hides what lies there; 2.25 s are 27 frames, of which the first 24 are
    # not even read, for a key frame follows them.
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    path = remux(films["bframes.mp4"].path, tmp_path / "edited.mp4", options, earlier=2.25)
    with av.open(str(path)) as container:
        assert any(packet.is_discard for packet in container.demux(video=0))
    clip = read(path, fps=4, frames=100)
    assert films.numbers(clip.frames) == list(range(27, 90, 3))
    np.testing.assert_allclose(clip.timestamps, np.arange(21) / 4, atol=1e-6)
    assert clip.duration == pytest.approx(63 / 12)


@pytest.mark.parametrize("name", ["bframes.mp4", "vp9.webm"])
def test_a_file_that_states_no_duration_lasts_as_long_as_its_frames(films, tmp_path: Path, name: str) -> None:
    path = remux(films[name].path, tmp_path / "live.mkv", {"live": "1"})  # as a stream recorded while it is sent
    with av.open(str(path)) as container:
        assert container.duration is None
        assert container.streams.video[0].duration is None
    clip = read(path)
    assert films.numbers(clip.frames) == list(range(0, 90, 12))
    assert clip.duration == pytest.approx(7.5, abs=2e-3)


def test_beneath_a_transparent_pixel_its_colour_shows(tmp_path: Path) -> None:
    see_through = np.dstack([picture(), np.zeros((64, 64), np.uint8)])  # (64, 64, 4), alpha 0 everywhere
    path = tmp_path / "transparent.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgba"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(see_through, "rgba")))
        container.mux(stream.encode())
    assert corners(read(path).frames[0]) == ["red", "green", "blue", "white"]


def test_a_cover_picture_beside_the_video_is_not_taken_for_it(films, tmp_path: Path) -> None:
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 640, 640, "rgb24"
        cover.disposition = Disposition.attached_pic
        video = container.add_stream("libx264", rate=12)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((640, 640, 3), np.uint8), "rgb24")))
        for number in range(24):
            container.mux(video.encode(av.VideoFrame.from_ndarray(films.numbered(number), "rgb24")))
        container.mux(video.encode())
    with av.open(str(path)) as container:
        assert any(stream.disposition & Disposition.attached_pic for stream in container.streams.video)
    assert films.numbers(read(path).frames) == [0, 12]


def test_of_several_videos_the_default_one_is_shown(films, tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=12) for _ in range(2)]
        for stream, side in zip(streams, (128, 64), strict=True):
            stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        streams[0].disposition, streams[1].disposition = Disposition(0), Disposition.default
        for number in range(24):
            for stream, side, shift in zip(streams, (128, 64), (100, 0), strict=True):
                picture = films.numbered(number + shift, side)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    assert films.numbers(read(path).frames) == [0, 12]
