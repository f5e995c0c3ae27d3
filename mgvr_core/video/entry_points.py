"""At which key packets decoding may begin so that every later frame comes out as if the file were read from its start.

A packet's key flag is not enough. A container may set it on any picture that it likes, and libavformat sets it at
H.264's recovery points (open GOPs, gradual refresh), behind which pictures may lean on what came before. So the flag is
believed only for codecs whose key frames reset the decoder by definition (VP9, AV1), and the packet itself is looked
into for H.264 (IDR pictures, Rec. ITU-T H.264 table 7-1) and HEVC (IRAP pictures, Rec. ITU-T H.265 table 7-1: what
follows one in output order never refers to what precedes it). Every other codec has no entry points: it is old enough
to be cheap to read in order.
"""

from __future__ import annotations

from collections.abc import Iterator

from av.packet import Packet
from av.video.stream import VideoStream

_BELIEVED = ("vp9", "av1")
_RANDOM_ACCESS = {"h264": {5}, "hevc": set(range(16, 22))}
# Sequence and picture parameter sets (for HEVC the video ones too) inside the stream, not in the container's header.
_PARAMETER_SETS = {"h264": {7, 8}, "hevc": {32, 33, 34}}


class EntryPoints:
    """Judges the key packets of one stream, in order of decoding."""

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._codec = codec
        self._extradata = extradata or b""
        self._sent: set[int] = set()

    def accepts(self, packet: Packet[VideoStream]) -> bool:
        """Whether decoding may begin at this packet, which must be one that the container flags as key."""
        if self._codec in _BELIEVED:
            return True
        if self._codec not in _RANDOM_ACCESS:
            return False
        kinds = set(self._unit_types(bytes(packet)))
        # Parameter sets once sent inside the stream stay in force: a later entry that doesn't send them again would
        # be decoded with others.
        self._sent |= kinds & _PARAMETER_SETS[self._codec]
        return bool(kinds & _RANDOM_ACCESS[self._codec]) and kinds >= self._sent

    def _unit_types(self, data: bytes) -> Iterator[int]:
        """The types of the NAL units of a packet in MP4's and Matroska's form: each unit behind its length."""
        if self._codec == "h264":
            prefix, shift, mask = self._prefix_size(5), 0, 0x1F
        else:
            prefix, shift, mask = self._prefix_size(22), 1, 0x3F
        position = 0
        while prefix and position + prefix < len(data):
            length = int.from_bytes(data[position : position + prefix], "big")
            yield data[position + prefix] >> shift & mask
            position += prefix + length

    def _prefix_size(self, place: int) -> int:
        """Bytes of the length field, from the decoder configuration record; 0 where there is none (start codes)."""
        record = self._extradata
        return (record[place - 1] & 3) + 1 if len(record) > place and record[0] == 1 else 0
