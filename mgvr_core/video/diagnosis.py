"""Why a file gives no frame: what its own bytes say where libavformat says only "invalid data".

Asked of files that have failed already, so nothing here decides whether a file is decoded, only what its fault is
called: a download to be repeated and a web page named .mp4 are different errands for whoever reads the failures.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from av import FFmpegError

from mgvr_core.video.decoders import DecodeError, Fault

# Boxes that an ISO base media file (mp4, mov, 3gp: ISO/IEC 14496-12) or one of its media segments may begin with.
_FIRST_BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"sidx", b"free", b"skip", b"wide", b"pnot"}
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # Matroska and WebM, RFC 8794 and RFC 9559
_OTHERS = {b"FLV\x01": "FLV", b"OggS": "Ogg", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "ASF", b"RIFF": "RIFF"}
_BLOCK = 1 << 20


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int | None  # None: the length that it states is impossible


def unopened(path: str) -> tuple[Fault, str]:
    """The fault of a file that libavformat can't open, and the words for it."""
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        shortfall = _shortfall(file, size)
        boxes = list(_boxes(file, size))
        kinds = {box.kind for box in boxes}
        if boxes and b"moov" not in kinds and kinds & {b"moof", b"styp"}:
            return "fragment", "a media segment (moof) without the header (moov) that says how to decode it"
        if shortfall:
            return "truncated", shortfall
        file.seek(0)
        begin = file.read(8)
    name = "mp4" if boxes else "Matroska" if begin.startswith(_EBML) else None
    name = name or next((name for magic, name in _OTHERS.items() if begin.startswith(magic)), None)
    if name:
        return "corrupt", f"it begins as {name} and can't be read as that"
    return "not_a_video", "bytes of no known format"


def shortfall(path: str) -> str | None:
    """In words, how a file ends before the end that its container states; None where it doesn't or states none."""
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        return _shortfall(file, size)


def refuse_unreadable(path: str, error: FFmpegError) -> None:
    """Raise DecodeError, kind `unreadable`, if the operating system can't read the file to its end.

    Demuxers report an input/output error for files cut short as well, so the file itself is asked.
    """
    if error.errno not in errno.errorcode:
        return  # one of FFmpeg's own
    try:
        with Path(path).open("rb", buffering=0) as file:
            while file.read(_BLOCK):
                pass
    except OSError as reason:
        raise DecodeError("unreadable", f"{path}: {reason.strerror or reason}") from None


def _shortfall(file: BinaryIO, size: int) -> str | None:
    file.seek(0)
    begin = file.read(64)
    if begin.startswith(b"RIFF"):
        end: int | None = 8 + int.from_bytes(begin[4:8], "little")
    elif begin.startswith(_EBML):
        end = _matroska_end(begin)
    else:
        boxes = list(_boxes(file, size))
        end = boxes[-1].end if boxes else None
        if boxes and end is not None and end <= size and b"moov" not in {box.kind for box in boxes}:
            return "cut short: it ends before its index (moov)"
    if end is None or end <= size:
        return None
    return f"cut short: its container states at least {end} bytes, the file has {size}"


def _matroska_end(begin: bytes) -> int | None:
    """Where the first Segment ends, from the first bytes of a file; None where that is left open."""
    header = _ebml_size(begin, 4)
    if header is None or header[0] is None:
        return None
    place = header[0] + header[1]
    if begin[place : place + 4] != _SEGMENT:
        return None
    segment = _ebml_size(begin, place + 4)
    return None if segment is None or segment[0] is None else segment[0] + segment[1]


def _ebml_size(data: bytes, place: int) -> tuple[int | None, int] | None:
    """An element's size (None: unknown) and where its content begins; None past the end of `data`."""
    length = 9 - data[place].bit_length() if place < len(data) else 9
    if length > 8 or place + length > len(data):
        return None
    value = int.from_bytes(data[place : place + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), place + length


def _boxes(file: BinaryIO, size: int) -> Iterator[_Box]:
    """The boxes of an ISO base media file's top level, up to its end or the first that can't be one."""
    start = 0
    while start < size:
        file.seek(start)
        head = file.read(16)
        kind = head[4:8]
        if start == 0 and kind not in _FIRST_BOXES:
            return
        length, least = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, least = int.from_bytes(head[8:16], "big"), 16
        elif length == 0:
            length = size - start  # up to the end of the file
        if len(head) < least:
            end: int | None = start + least
        else:
            end = start + length if length >= least and kind.isascii() and kind.decode().isprintable() else None
        yield _Box(kind, start, end)
        if end is None:
            return
        start = end
