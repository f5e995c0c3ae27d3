"""Films whose frames tell their own number, and the files beside the checkout."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest

# Between them: B-frames, long and open GOPs, no B-frames, no index, no presentation times, 10 bits, hidden frames.
ENCODINGS = {
    "bframes.mp4": ("libx264", {"g": "12", "bf": "3"}),
    "one_key.mp4": ("libx264", {"g": "999", "bf": "2"}),
    "open_gop.mp4": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
    "refresh.mp4": ("libx264", {"g": "12", "x264-params": "intra-refresh=1"}),
    "bframes.mkv": ("libx264", {"g": "12", "bf": "3"}),
    "open_gop_hevc.mp4": ("libx265", {"x265-params": "keyint=12:bframes=3:log-level=none"}),
    "hevc10.mkv": ("libx265", {"x265-params": "keyint=12:bframes=3:open-gop=0:log-level=none"}),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "12"}),
    "vp8.webm": ("libvpx", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "12"}),
    "av1.mp4": ("libsvtav1", {"g": "12", "preset": "10", "crf": "1", "svtav1-params": "enable-tf=0:scm=0"}),
    "mpeg4.mp4": ("mpeg4", {"g": "12", "bf": "2"}),
    "bframes.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "h264.avi": ("libx264", {"g": "12", "bf": "3"}),
    "mjpeg.avi": ("mjpeg", {}),
    "h264.ts": ("libx264", {"g": "12", "bf": "3"}),
    "mpeg2.mpg": ("mpeg2video", {"g": "12", "bf": "2"}),
    "wmv2.wmv": ("wmv2", {"g": "12"}),
    "h264.flv": ("libx264", {"g": "12", "bf": "3"}),
    "raw.h264": ("libx264", {"g": "12", "bf": "3"}),
}


class Film(NamedTuple):
    """A file of numbered pictures; `starts[i]` is the second at which picture i is presented."""

    path: Path
    starts: np.ndarray
    duration: float

    def expected(self, instants: np.ndarray) -> list[int]:
        """The numbers of the pictures that are on at these instants."""
        return (np.searchsorted(self.starts, instants + 1e-6, side="right") - 1).tolist()


def numbered(index: int, side: int = 64) -> np.ndarray:
    """A picture of 4 x 4 cells, black or white: the 8 bits of its number, and below them their complements."""
    bits = (index >> np.arange(8).reshape(2, 4)) & 1
    cells = np.concatenate([bits, 1 - bits]).astype(np.uint8) * 255
    return np.repeat(cells.repeat(side // 4, 0).repeat(side // 4, 1)[..., None], 3, 2)


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers that (n, side, side, 3) pictures bear."""
    n, side = frames.shape[:2]
    cells = frames.reshape(n, 4, side // 4, 4, side // 4, 3).mean(axis=(2, 4, 5)).reshape(n, 16)
    return ((cells[:, :8] > cells[:, 8:]) << np.arange(8)).sum(1).tolist()


def write(
    path: Path,
    pictures: list[np.ndarray],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times: list[float] | None = None,
    pix_fmt: str = "yuv420p",
    prepare: Callable[[av.VideoStream], None] = lambda stream: None,
) -> Path:
    """A video of (h, w, 3) uint8 pictures, 12 a second, or each at its time (in seconds, to the millisecond)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        prepare(stream)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pix_fmt)
            frame.pts = number if times is None else round(times[number] * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class Films:
    """Writes films, and reads the numbers off their pictures."""

    write = staticmethod(write)
    numbered = staticmethod(numbered)
    numbers = staticmethod(numbers)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> Film:
        """The film of a name in ENCODINGS: 90 pictures, 12 a second; written once a session."""
        path = self._folder / name
        codec, options = ENCODINGS[name]
        if not path.exists():
            pix_fmt = "yuv420p10le" if "hevc10" in name else "yuvj420p" if codec == "mjpeg" else "yuv420p"
            write(path, [numbered(number) for number in range(90)], codec, options, pix_fmt=pix_fmt)
        # A bare elementary stream states no rate; libavformat takes it to be 25.
        rate = 25 if name == "raw.h264" else 12
        starts = np.arange(90) / rate
        if path.suffix in (".mkv", ".webm", ".flv", ".wmv"):
            starts = starts.round(3)  # all that these containers can store
        return Film(path, starts, 90 / rate)


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films(tmp_path_factory.mktemp("films"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`film_name`: every encoding. `good_clip`, `odd_clip`, `broken_clip`: every file of that folder beside us."""
    if "film_name" in metafunc.fixturenames:
        metafunc.parametrize("film_name", ENCODINGS)
    clips = (Path(__file__).resolve().parents[3] / ".." / "shared" / "clips").resolve()
    for folder in ("good", "odd", "broken"):
        if f"{folder}_clip" in metafunc.fixturenames:
            absent = pytest.mark.skip(reason="../shared/clips is not beside this checkout")
            files = [pytest.param(file, id=file.name) for file in sorted((clips / folder).glob("*"))]
            metafunc.parametrize(f"{folder}_clip", files or [pytest.param(None, marks=absent, id="none")])
