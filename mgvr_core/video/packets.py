"""What a file's packets say, learned by reading them all once without decoding: the clock, the length, the ways in.

Reading packets costs a few per cent of decoding them. It gives the duration where the container states none (or a
wrong one), the presentation time of every frame where that is stored, and the packets at which decoding may begin.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import av
from av.format import Flags

from mgvr_core.video.decoders import DecodeError
from mgvr_core.video.diagnosis import refuse_unreadable
from mgvr_core.video.entry_points import EntryPoints
from mgvr_core.video.recordings import Recordings, find_recordings
from mgvr_core.video.source import Source

# Containers that store a presentation time with every frame and can be sought by it. AVI stores none: libavformat
# makes them up, wrongly where there are B-frames. MPEG-PS/TS, ASF and FLV have no index by which to land exactly.
_TIMED_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")

# What libavformat itself assumes of a stream that states no rate.
_ASSUMED_RATE = Fraction(25)


@dataclass(frozen=True)
class Timeline:
    """The presentation of a file known from its packets alone: one packet a frame, each with a time of its own.

    pts      presentation times in ticks, in order of decoding
    shown    those that are presented (an edit list can hide some), ascending
    entries  numbers, in order of decoding, of the packets at which decoding may begin, ascending; empty where none is
             certain. The first is 0 or there is none.
    closed   every packet that the container flags as key is an entry point, and no packet behind one is presented
             before it (no open GOP): any reader that trusts the container's flags alone comes out right
    """

    pts: list[int]
    shown: list[int]
    entries: list[int]
    closed: bool


@dataclass(frozen=True)
class PacketIndex:
    """The packets of a video stream; times in ticks of `time_base` seconds.

    clock        where a decoded frame's time is taken from: its "pts"; its "dts" (AVI: its chunk's place in the file,
                 which libavcodec hands out in order of presentation); or the "count" of frames before it
    step         ticks between two frames at the average rate
    first, last  when the first packet's frame begins and the last one's ends
    rate         average frames a second
    recordings   what is added to the times of each packet; nothing, but where the clock starts anew on the way
    timeline     None where the file must be read in order to learn what it presents
    """

    time_base: Fraction
    clock: Literal["pts", "dts", "count"]
    step: Fraction
    first: Fraction
    last: Fraction
    rate: float
    recordings: Recordings
    timeline: Timeline | None

    def seconds(self, ticks: Fraction | int) -> float:
        """Ticks as seconds, rounded once."""
        return float(ticks * self.time_base)

    def duration(self, origin: Fraction | int) -> float:
        """Seconds from the first presented frame, at `origin` ticks, to the end of the last.

        A frame's dts is late by the decoder's delay, its pts is not: packets before `origin` in pts gave no frame.
        """
        return self.seconds(self.last - (origin if self.clock == "pts" else self.first))


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int
    key: bool
    hidden: bool
    entry: bool


def index_packets(source: Source) -> PacketIndex:
    """Read all packets of the source's video stream. Raises DecodeError where it is encrypted or the disk
    fails.
    """
    stream = source.stream
    time_base = Fraction(stream.time_base or 1)  # every demuxer states one
    packets, reconfigured = _read(source)

    times = [packet.pts for packet in packets if packet.pts is not None]
    stamps = [packet.dts for packet in packets]
    known = [stamp for stamp in stamps if stamp is not None]
    in_order = known == sorted(known)
    rate = stream.average_rate or _mean_rate(times, time_base)
    step = 1 / (rate * time_base)
    container = source.container.format
    recordings = Recordings([0], [0])
    clock: Literal["pts", "dts", "count"]
    if packets and len(times) == len(packets) and container.name != "avi":
        ends = [time + (packet.duration or math.ceil(step)) for time, packet in zip(times, packets, strict=True)]
        recordings = find_recordings(times, stamps, ends, time_base, Flags.ts_discont in Flags(container.flags))
        times = [time + recordings.shift(number) for number, time in enumerate(times)]
        clock, first = "pts", Fraction(min(times))
        shown = (t + (p.duration or step) for t, p in zip(times, packets, strict=True) if not p.hidden)
        last = max(shown, default=first)
    elif packets and in_order and len(known) == len(packets):
        clock, first, last = "dts", Fraction(known[0]), known[-1] + step
    else:
        clock, first, last = "count", Fraction(0), len(packets) * step  # no time stamps: bare elementary streams

    timeline = None
    if clock == "pts" and in_order and not reconfigured and container.name in _TIMED_CONTAINERS:
        timeline = _timeline(packets, times)
    return PacketIndex(time_base, clock, step, first, Fraction(last), float(rate), recordings, timeline)


def _read(source: Source) -> tuple[list[_Packet], bool]:
    """All packets, and whether the codec's configuration changes on the way: a seek would miss the change."""
    context = source.stream.codec_context
    points = EntryPoints(context.codec.canonical_name, context.extradata)
    packets: list[_Packet] = []
    reconfigured = False
    try:
        for packet in source.container.demux(source.stream):
            if not packet.size:  # the one that asks a decoder to finish
                continue
            if packet.has_sidedata("encryption_info"):
                raise DecodeError("encrypted", f"{source.path}: its video is encrypted")
            reconfigured |= packet.has_sidedata("new_extradata")
            entry = packet.is_keyframe and points.accepts(packet)
            packets.append(
                _Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, packet.is_discard, entry)
            )
    except MemoryError:
        raise
    except av.FFmpegError as error:
        refuse_unreadable(source.path, error)
        # Else a file cut short: what there is of it counts, as it does for a player.
    return packets, reconfigured


def _mean_rate(times: list[int], time_base: Fraction) -> Fraction:
    span = max(times) - min(times) if times else 0
    return (len(times) - 1) / (span * time_base) if span else _ASSUMED_RATE


def _timeline(packets: list[_Packet], times: list[int]) -> Timeline | None:
    """The presentation, if every packet has a time of its own and the first can be decoded by itself."""
    if not packets or not packets[0].key or len(set(times)) < len(times):
        return None
    shown = sorted(time for time, packet in zip(times, packets, strict=True) if not packet.hidden)
    if not shown:
        return None
    entries = [number for number, packet in enumerate(packets) if packet.entry] if packets[0].entry else []
    keys = [number for number, packet in enumerate(packets) if packet.key]
    ahead = [min(times[key:following]) for key, following in itertools.pairwise([*keys, len(packets)])]
    return Timeline(times, shown, entries, closed=entries == keys and ahead == [times[key] for key in keys])
