"""What the benchmarks share: films made on the spot, and a comparison that other work on the machine hardly touches."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

WIDTH, HEIGHT, FPS = 320, 240, 24
KEY_FRAME_EVERY_S = 2

Film = Callable[[str, int], Path]
Race = Callable[[Callable[[], object], Callable[[], object]], float]


def write_film(path: Path, seconds: int, random: np.random.Generator) -> Path:
    """A window that wanders over a texture of soft blobs, as H.264 with B-frames."""
    coarse = random.integers(0, 256, (60, 80, 3), np.uint8)
    texture = av.VideoFrame.from_ndarray(coarse, "rgb24").reformat(4 * WIDTH, 4 * HEIGHT).to_ndarray(format="rgb24")
    options = {"preset": "ultrafast", "g": str(KEY_FRAME_EVERY_S * FPS), "bf": "2"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(seconds * FPS):
            # Periods that meet again only after 25 minutes: no film made here comes back to where it began.
            x = round(1.5 * WIDTH * (1 + np.sin(number / 97)))
            y = round(1.5 * HEIGHT * (1 + np.sin(number / 61)))
            window = np.ascontiguousarray(texture[y : y + HEIGHT, x : x + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, "rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def film(tmp_path: Path) -> Film:
    """Writes an mp4 of a name and a length in seconds, with a key frame every two seconds."""
    random = np.random.default_rng(0)
    return lambda name, seconds: write_film(tmp_path / name, seconds, random)


@pytest.fixture(scope="session")
def race() -> Race:
    """How many times as long the first call takes as the second."""

    def seconds(call: Callable[[], object]) -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    def ratio(slow: Callable[[], object], fast: Callable[[], object]) -> float:
        # In turns, and the shortest of each: whatever else the machine does only ever adds.
        rounds = [(seconds(slow), seconds(fast)) for _ in range(5)]
        slowest, fastest = (min(times) for times in zip(*rounds, strict=True))
        return slowest / fastest

    return ratio
