"""What seeking saves: the sampled frames of a long film, against reading it from its start."""

from __future__ import annotations

import numpy as np

from mgvr_core.video import decoders, pyav
from mgvr_core.video.decoders import MAX_PIXELS, Clip, Request
from mgvr_core.video.packets import index_packets
from mgvr_core.video.sampling import SamplingConfig
from mgvr_core.video.source import open_source

MINUTES = 10


def in_order(request: Request) -> Clip:
    """The default decoder's own slow way: the same index, frames and scaling, but every frame is decoded."""
    with open_source(request.path, MAX_PIXELS) as source:
        index = index_packets(source)
    with open_source(request.path, MAX_PIXELS) as source:
        return pyav.decode_in_order(source, index, request)


def test_seeking_against_reading_in_order(film, race) -> None:
    request = Request(str(film("long.mp4", 60 * MINUTES)), SamplingConfig(), size=224)
    decode, _ = decoders.load("pyav")
    seeking, plain = decode(request, MAX_PIXELS), in_order(request)
    np.testing.assert_array_equal(seeking.frames, plain.frames)
    np.testing.assert_array_equal(seeking.timestamps, plain.timestamps)

    ratio = race(lambda: in_order(request), lambda: decode(request, MAX_PIXELS))
    print(
        f"\n{len(seeking.frames)} frames of a {MINUTES}-minute mp4 with a key frame every 2 s: "
        f"reading in order takes {ratio:.1f} times as long as seeking"
    )
