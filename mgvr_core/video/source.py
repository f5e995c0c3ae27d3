"""Opening a local media file with PyAV and finding its picture."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Source:
    """An open file and the one stream of it that is decoded."""

    path: str
    container: InputContainer
    stream: VideoStream


@contextmanager
def open_source(path: str, max_pixels: int) -> Iterator[Source]:
    """The file's main video stream, ready to be read from its start. Raises DecodeError where there is none."""
    # An absolute path: the name a:b would be taken for a protocol. The white list: a play list can't lead to a network.
    # max_pixels: for the decoders that libavformat itself opens to probe the streams.
    options = {"protocol_whitelist": "file", "max_pixels": str(max_pixels)}
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
        if stream.width * stream.height > max_pixels:
            size = f"{stream.width}x{stream.height}"
            raise DecodeError("too_large", f"{path}: frames of {size} pixels, more than the limit of {max_pixels}")
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        # One thread: many children run side by side, and the frames can't depend on the machine's cores.
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(max_pixels)}
        yield Source(path, container, stream)
