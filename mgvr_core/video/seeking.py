"""Frames of a file by way of its entry points: only what lies between an entry and a wanted frame is decoded."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mgvr_core.video.packets import Timeline
from mgvr_core.video.source import Source


class Surprise(Exception):  # noqa: N818 - a signal to read in order, never an error to a caller
    """The file does not come out as its packets promised."""


def frames_at(source: Source, timeline: Timeline, times: Sequence[int]) -> Iterator[VideoFrame]:
    """The frames presented at `times` (ticks, ascending, without repeats). Raises Surprise.

    The checks that make a jump trustworthy: the packet sought is met again at its own time, and those behind it in
    their order; the first frame to come out is that packet's, and a key frame (or, if an edit list hides it, the next
    one in presentation); every wanted frame comes out at exactly its time.
    """
    number_of = {time: number for number, time in enumerate(timeline.pts)}
    reader: _Reader | None = None
    for time in times:
        entry = _entry_for(timeline, number_of[time], time)
        # A jump pays only past what the decoder has been fed already.
        if reader is None or reader.fed < entry:
            reader = _Reader(source, timeline, number_of, entry)
        yield reader.read_to(time)


def _entry_for(timeline: Timeline, number: int, time: int) -> int:
    """The last entry point that the packet can be decoded from: not after it, neither in decoding nor in display."""
    position = bisect_right(timeline.entries, number)
    while position:
        position -= 1
        entry = timeline.entries[position]
        if timeline.pts[entry] <= time:
            return entry
    raise Surprise


class _Reader:
    """Decodes onwards from one entry point; `fed` is the number of the last packet that the decoder was given."""

    def __init__(self, source: Source, timeline: Timeline, number_of: dict[int, int], entry: int) -> None:
        self.fed = entry
        self._timeline = timeline
        self._number_of = number_of
        self._frames = self._decode(source, entry)

    def read_to(self, time: int) -> VideoFrame:
        """Decode up to the frame presented at `time`. Raises Surprise where it does not come."""
        for frame in self._frames:
            if frame.pts == time:
                return frame
        raise Surprise

    def _decode(self, source: Source, entry: int) -> Iterator[VideoFrame]:
        entry_time = self._timeline.pts[entry]
        first_time = self._timeline.shown[bisect_left(self._timeline.shown, entry_time)]
        first = True
        try:
            for packet in self._packets_from(source, entry):
                for frame in packet.decode():
                    source.refuse_larger(frame.width, frame.height)
                    # Damage is patched from neighbouring frames, which are not the same ones after a jump.
                    if frame.is_corrupt:
                        raise Surprise
                    if first and (frame.pts != first_time or frame.key_frame != (first_time == entry_time)):
                        raise Surprise
                    first = False
                    yield frame
        except MemoryError:
            raise
        except av.FFmpegError:
            raise Surprise from None

    def _packets_from(self, source: Source, entry: int) -> Iterator[Packet[VideoStream]]:
        source.container.seek(self._timeline.pts[entry], stream=source.stream)
        arrived = False
        for packet in source.container.demux(source.stream):
            if packet.size:
                number = -1 if packet.pts is None else self._number_of.get(packet.pts, -1)
                # The container may land further back than asked for: what lies before the entry is not decoded.
                if not arrived and 0 <= number < entry:
                    continue
                if number != (self.fed + 1 if arrived else entry):
                    raise Surprise
                arrived, self.fed = True, number
            yield packet
