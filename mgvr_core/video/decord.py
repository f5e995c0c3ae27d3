"""decord 0.6.0 behind the same interface, for files whose frames it gets right.

It returns wrong frames without an error from AVI, MPEG-PS/TS and WMV, with edit lists, with open GOPs, and where a
key frame is flagged that later frames look behind; it does not mirror, and of several videos it may take another. So it
is believed only where the packets alone tell the presentation of the file, nothing is hidden, every flagged key frame
is a clean beginning, one video is there and is shown as it is stored, decord counts the same frames at the same times,
and its own libavcodec reports no error (which is seen in the sandbox only); any other file is refused as `unsupported`.
Its native library dates from 2021 and is not maintained: run it in the sandbox only.
"""

from __future__ import annotations

import importlib.metadata
import os
import stat
from typing import Any

import av
import numpy as np

from mgvr_core.video import pyav
from mgvr_core.video.decoders import Clip, DecodeError, Request
from mgvr_core.video.packets import PacketIndex, Timeline, index_packets
from mgvr_core.video.picture import Shots, is_stored_upright
from mgvr_core.video.seeking import Surprise, frames_at
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
        several = len(source.container.streams.video) > 1
    timeline = index.timeline
    if several:
        raise _distrust(request, "it holds several videos or pictures")
    if timeline is None:
        raise _distrust(request, "its packets do not tell the time of every frame")
    if len(timeline.shown) < len(timeline.pts):
        raise _distrust(request, "an edit list hides frames")
    if not timeline.closed:
        raise _distrust(request, "not all of its key frames are certain to be clean beginnings")
    if _turned(request, timeline, max_pixels):
        raise _distrust(request, "its pictures are to be turned or mirrored")
    errors = _error_bytes()
    origin = timeline.shown[0]
    shots = Shots(request.size)
    try:
        reader = _open(request, index, timeline)
        for pick in pyav.picks(request, index, timeline):
            pixels = reader[pick].asnumpy()  # (h, w, 3) uint8 RGB, upright
            if pixels.shape[-1] != 3:
                raise _distrust(request, "frames as narrow as its come out garbled")
            shots.add(av.VideoFrame.from_ndarray(pixels, "rgb24"), index.seconds(timeline.shown[pick] - origin))
    except _decord().DECORDError as error:
        reason = str(error).splitlines()[0]
        raise DecodeError("decoder_error", f"{request.path}: {reason}; use the pyav decoder") from None
    if _error_bytes() > errors:
        raise _distrust(request, "its libavcodec reports damage, which it patches in a way of its own")
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


def _turned(request: Request, timeline: Timeline, max_pixels: int) -> bool:
    """Whether a viewer turns or mirrors the pictures; only a frame tells, the stream itself may say so too."""
    with open_source(request.path, max_pixels) as source:
        try:
            first = next(frames_at(source, timeline, timeline.shown[:1]))
        except Surprise:
            raise _distrust(request, "its first frame does not come out as its packets promise") from None
        return not is_stored_upright(first)


def _error_bytes() -> int:
    """How much was written to stderr, where it is a file, as it is in the sandbox: libavcodec's errors end there."""
    return os.fstat(2).st_size if stat.S_ISREG(os.fstat(2).st_mode) else 0


def _distrust(request: Request, reason: str) -> DecodeError:
    message = f"{request.path}: decord can't be trusted with it ({reason}); use the pyav decoder"
    return DecodeError("unsupported", message)


def _decord() -> Any:
    import decord  # not at the top: the version is asked for in processes that must not load the library

    return decord
