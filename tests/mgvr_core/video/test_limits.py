"""A file that asks for more than it may have is named, and never shown with frames missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mgvr_core.video.decoders import DecodeError, Request, decode
from mgvr_core.video.sampling import SamplingConfig

SIXTY_FOUR = 64 * 64


def test_frames_above_the_limit_are_called_that_in_every_codec(films, film_name: str) -> None:
    request = Request(str(films[film_name].path), SamplingConfig(frames=1), 32)
    decode("pyav", request, max_pixels=SIXTY_FOUR)
    with pytest.raises(DecodeError, match="64x64 pixels, more than the limit of 4095") as caught:
        decode("pyav", request, max_pixels=SIXTY_FOUR - 1)
    assert caught.value.kind == "too_large"


def test_frames_that_grow_above_the_limit_on_the_way_are_not_passed_over(films, tmp_path: Path) -> None:
    parts = [films.write(tmp_path / f"{side}.ts", [films.numbered(1, side)] * 12) for side in (64, 128)]
    path = tmp_path / "growing.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    request = Request(str(path), SamplingConfig(fps=4), 32)
    assert len(decode("pyav", request, max_pixels=4 * SIXTY_FOUR).frames) == 8
    with pytest.raises(DecodeError, match="128x128 pixels") as caught:
        decode("pyav", request, max_pixels=4 * SIXTY_FOUR - 1)
    assert caught.value.kind == "too_large"


SQUEEZED = """
import resource, sys
from pathlib import Path
from mgvr_core.video.decoders import DecodeError, Request, decode, load
from mgvr_core.video.sampling import SamplingConfig
load("pyav")
request = Request(sys.argv[1], SamplingConfig(strategy="uniform", frames=5), 32)
for mib in (5, 20, 40, 60, 500):
    limit = (int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()) + (mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        print(mib, [round(float(frame.mean()) / 20) for frame in decode("pyav", request).frames])
    except MemoryError:
        print(mib, "memory")
    except DecodeError as error:
        print(mib, error.kind)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep the limit of the address space")
@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264.mp4"), ("mpeg4", "mpeg4.mp4"), ("ffv1", "ffv1.mkv")])
def test_a_lack_of_memory_is_not_taken_for_damage(films, tmp_path: Path, codec: str, name: str) -> None:
    pictures = [np.full((1440, 2560, 3), 40 + 20 * number, np.uint8) for number in range(5)]
    options = {"preset": "ultrafast"} if codec == "libx264" else {}
    path = films.write(tmp_path / name, pictures, codec, options)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", SQUEEZED, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.splitlines()
    outcomes = {line.split(" ", 1)[1] for line in said}
    assert outcomes == {"memory", "[2, 3, 4, 5, 6]"}
