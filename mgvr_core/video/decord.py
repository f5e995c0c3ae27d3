"""decord 0.6.0 behind the same interface, for files whose frames it gets right.

It returns wrong frames without an error from AVI, MPEG-PS/TS and WMV, with edit lists, with open GOPs, and where a
key frame is flagged that later frames look behind. So it is believed only where the packets alone tell the
presentation of the file, nothing is hidden, every flagged key frame is a clean beginning, and decord counts the same
frames at the same times; any other file is refused as `unsupported`. Its native library dates from 2021 and is not
maintained: run it in the sandbox only.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import av
import numpy as np

from mgvr_core.video import pyav
from mgvr_core.video.decoders import Clip, DecodeError, Request
from mgvr_core.video.packets import PacketIndex, Timeline, index_packets
from mgvr_core.video.picture import Shots
from mgvr_core.video.source import open_source

# decord's times are float32 seconds, which are exact to a millisecond for the first four hours.
_TOLERANCE_S = 1e-3


def version() -> str:
    """decord and PyAV (which reads the packets and scales the frames). Raises ImportError where there is no decord."""
    return f"decord {importlib.metadata.version('decord')} / {pyav.version()}"


def decode(request: Request, max_pixels: int) -> Clip:
    """The request's frames. Raises DecodeError, kind `unsupported` where decord can't be trusted with the file."""
    with open_source(request.path, max_pixels) as source:
        index = index_packets(source)
    timeline = index.timeline
    if timeline is None:
        raise _distrust(request, "its packets do not tell the time of every frame")
    if len(timeline.shown) < len(timeline.pts):
        raise _distrust(request, "an edit list hides frames")
    if not timeline.closed:
        raise _distrust(request, "not all of its key frames are certain to be clean beginnings")
    origin = timeline.shown[0]
    shots = Shots(request.size)
    try:
        reader = _open(request, index, timeline)
        for pick in pyav.picks(request, index, timeline):
            pixels = reader[pick].asnumpy()  # (h, w, 3) uint8 RGB, upright
            shots.add(av.VideoFrame.from_ndarray(pixels, "rgb24"), index.seconds(timeline.shown[pick] - origin))
    except _decord().DECORDError as error:
        reason = str(error).splitlines()[0]
        raise DecodeError("decoder_error", f"{request.path}: {reason}; use the pyav decoder") from None
    return shots.clip(index.duration(origin), index.rate)


def _open(request: Request, index: PacketIndex, timeline: Timeline) -> Any:
    reader = _decord().VideoReader(request.path, num_threads=1)
    starts = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0]  # (frames,) seconds
    expected = np.array([index.seconds(time - timeline.shown[0]) for time in timeline.shown])
    if len(starts) != len(expected):
        raise _distrust(request, f"it counts {len(starts)} frames, the packets {len(expected)}")
    # Where a file's times begin above 0, decord counts some from there and some from 0. Below 0 it shows hidden frames.
    if starts[0] < -_TOLERANCE_S or np.abs(starts - starts[0] - expected).max() > _TOLERANCE_S:
        raise _distrust(request, "its frame times are not those of the packets")
    return reader


def _distrust(request: Request, reason: str) -> DecodeError:
    message = f"{request.path}: decord can't be trusted with it ({reason}); use the pyav decoder"
    return DecodeError("unsupported", message)


def _decord() -> Any:
    import decord  # not at the top: the version is asked for in processes that must not load the library

    return decord
