"""Opening a local media file with PyAV and finding its picture."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Discard
from av.video.stream import VideoStream

from mgvr_core.video.decoders import DecodeError
from mgvr_core.video.diagnosis import refuse_unreadable, shortfall, unopened

# Two frames of four channels of 16 bits: more than a decoder asks for at once.
_BYTES_A_PIXEL = 2 * 4 * 2


@dataclass(frozen=True)
class Source:
    """An open file, the one stream of it that is decoded, and the most pixels that a frame of it may have."""

    path: str
    container: InputContainer
    stream: VideoStream
    max_pixels: int

    def refuse_larger(self, width: int, height: int) -> None:
        """Raise DecodeError, kind `too_large`, for frames of more pixels than the limit.

        Asked of every frame that comes out, for a stream may change its size on the way. libavcodec's own limit
        would pass over such frames, and the last one before them be shown for them.
        """
        if width * height > self.max_pixels:
            size = f"{width}x{height}"
            words = f"frames of {size} pixels, more than the limit of {self.max_pixels}"
            raise DecodeError("too_large", f"{self.path}: {words}")

    def require_room(self) -> None:
        """Raise MemoryError where no more frames fit into the memory limit.

        Asked when a packet can't be decoded: H.264's decoder calls an allocation that fails invalid data, and a file
        that needs more memory would be taken for a damaged one, its frames be passed over.
        """
        pixels = max(stream.width * stream.height for stream in (self.stream, self.stream.codec_context))
        try:
            mmap.mmap(-1, max(pixels, 1) * _BYTES_A_PIXEL, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        except OSError:
            raise MemoryError from None


@contextmanager
def open_source(path: str, max_pixels: int) -> Iterator[Source]:
    """The file's main video stream, ready to be read from its start. Raises DecodeError where there is none."""
    # An absolute path: the name a:b would be taken for a protocol. The white list: a play list can't lead to a network.
    options = {"protocol_whitelist": "file"}
    try:
        container = av.open(str(Path(path).absolute()), metadata_errors="ignore", options=options)
    except MemoryError:
        raise
    except av.FFmpegError as error:
        refuse_unreadable(path, error)
        fault, words = unopened(path)
        raise DecodeError(fault, f"{path}: {words} ({error.strerror})") from None
    with container:
        # The default stream, else libavformat's best: a cover picture only where there is nothing else.
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            words = f"no video stream in it ({container.format.long_name})"
            cut = shortfall(path)
            if cut:
                raise DecodeError("truncated", f"{path}: {cut}; {words}")
            raise DecodeError("no_video_stream", f"{path}: {words}")
        if stream.codec_context is None:
            raise DecodeError("unsupported", f"{path}: no decoder for its video codec in this build of libavcodec")
        # Matroska's encryption: libavformat hands out what it can't decrypt, and says so here only.
        if "enc_key_id" in stream.metadata:
            raise DecodeError("encrypted", f"{path}: its video is encrypted")
        source = Source(path, container, stream, max_pixels)
        source.refuse_larger(stream.width, stream.height)
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        # One thread: many children run side by side, and the frames can't depend on the machine's cores.
        stream.codec_context.thread_count = 1
        yield source
