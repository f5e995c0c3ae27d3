"""The default decoder. Right before fast: its frames are those of reading the file from its start, in order.

Two ways to the same frames. Where the packets alone tell what is presented when (`Timeline`) and where decoding may
begin (`entry_points`), only what lies between an entry point and a wanted frame is decoded. One surprise on the way,
and the file is read again in order. Files without such a timeline are read in order at once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from mgvr_core.video.decoders import Clip, DecodeError, Request
from mgvr_core.video.diagnosis import refuse_unreadable, shortfall
from mgvr_core.video.packets import PacketIndex, Timeline, index_packets
from mgvr_core.video.picture import Shots
from mgvr_core.video.sampling import instants
from mgvr_core.video.seeking import Surprise, frames_at
from mgvr_core.video.source import Source, open_source

# Instants are sums of rounded numbers: a frame that begins within a microsecond of one counts as begun.
_ROUNDING_S = 1e-6


def version() -> str:
    """PyAV and the libraries that it carries, for the fingerprint."""
    libraries = (f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in ("libavcodec", "libswscale"))
    return " / ".join([f"pyav {av.__version__}", *libraries])


def decode(request: Request, max_pixels: int) -> Clip:
    """The request's frames. Raises DecodeError, or MemoryError where an allocation fails."""
    with open_source(request.path, max_pixels) as source:
        index = index_packets(source)
        if index.timeline is not None and index.timeline.entries:
            try:
                return decode_by_entry_points(source, index, index.timeline, request)
            except Surprise:
                pass
    # Opened anew: nothing is left of the first attempt, or of reading the packets.
    with open_source(request.path, max_pixels) as source:
        return decode_in_order(source, index, request)


def wanted_instants(request: Request, duration: float) -> NDArray[np.float64]:
    """(n,) seconds from the video's start: the sampled instants of the request's segment."""
    start = request.start or 0.0
    end = duration if request.end is None else min(request.end, duration)
    if start > 0 and start >= end:
        raise DecodeError(
            "no_frames", f"{request.path}: no frames from {start} s to {end} s; the video lasts {duration:.3f} s"
        )
    return start + instants(end - start, request.sampling) + _ROUNDING_S


def picks(request: Request, index: PacketIndex, timeline: Timeline) -> list[int]:
    """For every wanted instant the place, in order of presentation, of the frame to show."""
    shown, origin = timeline.shown, timeline.shown[0]
    wanted = wanted_instants(request, index.duration(origin))
    return [bisect_right(shown, instant, key=lambda time: index.seconds(time - origin)) - 1 for instant in wanted]


def decode_by_entry_points(source: Source, index: PacketIndex, timeline: Timeline, request: Request) -> Clip:
    """The request's frames, decoding from the entry point before each. Raises Surprise."""
    origin = timeline.shown[0]
    wanted = [timeline.shown[pick] for pick in picks(request, index, timeline)]
    # The first frame is decoded in any case: all times count from it, so it has to be there.
    visited = sorted({origin, *wanted})
    shots = Shots(request.size)
    for time, frame in zip(visited, frames_at(source, timeline, visited), strict=True):
        for _ in range(wanted.count(time)):
            shots.add(frame, index.seconds(time - origin))
    return shots.clip(index.duration(origin), index.rate)


def decode_in_order(source: Source, index: PacketIndex, request: Request) -> Clip:
    """The request's frames, reading the file from its start up to the last of them."""
    frames = _timed_frames(source, index)
    origin, shown = next(frames)
    since = 0.0
    duration = index.duration(origin)
    wanted = wanted_instants(request, duration).tolist()
    shots = Shots(request.size)
    for ticks, frame in frames:
        time = index.seconds(ticks - origin)
        while wanted and wanted[0] < time:
            shots.add(shown, since)
            wanted.pop(0)
        if not wanted:
            break
        shown, since = frame, time
    for _ in wanted:
        shots.add(shown, since)
    return shots.clip(duration, index.rate)


def _timed_frames(source: Source, index: PacketIndex) -> Iterator[tuple[Fraction, VideoFrame]]:
    """Every frame that comes out, with its ticks on the file's clock, ascending. Raises DecodeError if none does.

    A frame whose time does not lie after the one before is passed over, as a player does.
    """
    faults: list[str] = []
    last: Fraction | None = None
    for frame in _decoded(source, index, faults):
        stamp = {"pts": frame.pts, "dts": frame.dts, "count": None}[index.clock]
        # No stamp: the clock is the count, or the decoder hands out its last frames, behind the last packet.
        following = index.first if last is None else last + index.step
        ticks = following if stamp is None else Fraction(stamp)
        if last is None or ticks > last:
            last = ticks
            yield ticks, frame
    if last is None:
        words = f"not one frame can be decoded ({faults[0]})" if faults else "a video stream without frames"
        cut = shortfall(source.path)
        if cut:
            raise DecodeError("truncated", f"{source.path}: {cut}; {words}")
        raise DecodeError("corrupt" if faults else "no_frames", f"{source.path}: {words}")


def _decoded(source: Source, index: PacketIndex, faults: list[str]) -> Iterator[VideoFrame]:
    """Frames in the order in which they come out; packets that can't be decoded are passed over and noted."""
    for packet in _packets(source, index, faults):
        try:
            frames = source.stream.decode(packet)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            source.require_room()
            faults.append(str(error.strerror))
            continue
        for frame in frames:
            source.refuse_larger(frame.width, frame.height)
            yield frame


def _packets(source: Source, index: PacketIndex, faults: list[str]) -> Iterator[Packet[VideoStream] | None]:
    """All packets, their times on one clock; the last asks the decoder for what it still holds. A file cut short ends
    where it is cut.
    """
    number = 0
    try:
        for packet in source.container.demux(source.stream):
            if packet.size:
                shift = index.recordings.shift(number)
                if shift and packet.pts is not None:
                    packet.pts += shift
                number += 1
            yield packet
    except MemoryError:
        raise
    except av.FFmpegError as error:
        refuse_unreadable(source.path, error)
        faults.append(str(error.strerror))
        yield None
