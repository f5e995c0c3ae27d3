"""The one interface to video decoders: a request goes in, a clip or a named fault comes out.

The contract that every decoder keeps: times count from the first frame that the file presents; the frame of an
instant t is the last one whose presentation time, to the microsecond, is <= t; a frame that a damaged file brings late,
after one of a later time, is passed over. So the same instants give the same frames, whatever decodes the file and
however it moves about in it. A decoder that can't promise that for a file refuses the file (`unsupported`).
"""

from __future__ import annotations

import errno
import importlib
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mgvr_core.errors import MgvrError
from mgvr_core.video.sampling import SamplingConfig

# 8K UHD with a little room: larger frames are poison or stills, not footage.
MAX_PIXELS = 8192 * 4352

Fault = Literal[
    "missing",
    "unreadable",
    "network",
    "empty",
    "not_a_video",
    "truncated",
    "fragment",
    "no_video_stream",
    "unsupported",
    "encrypted",
    "too_large",
    "corrupt",
    "no_frames",
    "decoder_error",
    "timeout",
    "memory",
    "crash",
    "killed",
    "machine",
    "changed",
    "not_finite",
]

FAULTS: Mapping[Fault, str] = {
    "missing": "there is no such file",
    "unreadable": "the operating system could not read it (I/O error, permission, stale mount)",
    "network": "it could not be fetched; tried again later",
    "empty": "a file of no bytes",
    "not_a_video": "a folder, a pipe, a device, or bytes of no known format (a web page, a file's tail)",
    "truncated": "begins as a known container and is cut short: before its index, or before its first whole frame",
    "fragment": "a media segment (DASH, HLS) without the header that says how to decode it",
    "no_video_stream": "a media file without a picture: sound or subtitles only, or no streams at all",
    "unsupported": "no decoder for its codec, or a file that the chosen decoder can't be trusted with",
    "encrypted": "its frames can't be decoded without a key",
    "too_large": "its frames have more pixels than the limit",
    "corrupt": "the decoder met errors and got not one frame out, or the container can't be read",
    "no_frames": "no errors, but no frame either; or a segment that begins after the last frame",
    "decoder_error": "any other error that the decoder reports",
    "timeout": "not decoded within the time limit; the decoder was killed",
    "memory": "decoding it needs more memory than the limit",
    "crash": "the decoder process died of it",
    "killed": "the decoder process was killed from outside, as a machine short of memory does",
    "machine": "the machine had no space, memory or file handles left",
    "changed": "it was changed while the run was under way",
    "not_finite": "the model gave NaN or infinity for it",
}
"""Every reason for which a video can be listed as failed, at whatever stage: there is no other list."""

TRANSIENT: frozenset[Fault] = frozenset({"network", "unreadable", "memory", "killed", "machine", "changed"})
"""Faults of the moment: such files are tried again. The others would fail again."""

HANDED_ON: frozenset[Fault] = frozenset({"unsupported", "decoder_error", "timeout", "memory", "crash"})
"""Faults that may be the decoder's and not the file's: another decoder, the fallback, gets the file. Not those of the
machine alone (`killed`), or it would hang on chance which decoder a video has.
"""


class DecodeError(MgvrError):
    """A file that gave no clip: `kind` is one of FAULTS, the message names the file and the fault."""

    def __init__(self, kind: Fault, message: str) -> None:
        super().__init__(message)
        self.kind: Fault = kind

    def __reduce__(self) -> tuple[type[DecodeError], tuple[Fault, str]]:
        return DecodeError, (self.kind, str(self))  # Exception's own would rebuild it from the message alone


@dataclass(frozen=True)
class Request:
    """Frames of one local file, or of its part from `start` (inclusive) to `end` (exclusive), in seconds."""

    path: str
    sampling: SamplingConfig
    size: int
    start: float | None = None
    end: float | None = None


@dataclass
class Clip:
    """The sampled frames of a video.

    frames      (n, size, size, 3) uint8 RGB: upright, short side scaled to `size`, the middle cut out
    timestamps  (n,) float64 seconds from the video's first frame: when the frames really shown begin, so an instant
                between two frames has the earlier one's time, and repeated ones mean a video slower than the sampling
    duration    seconds from the start of the first frame to the end of the last
    fps         average frame rate of the video
    width, height  of the video as displayed, in pixels (rotation applied, sample aspect ratio not)
    decoder     the name of the decoder that gave the frames, which may be the fallback's
    """

    frames: NDArray[np.uint8]
    timestamps: NDArray[np.float64]
    duration: float
    fps: float
    width: int
    height: int
    decoder: str = ""


_MODULES = {"pyav": "mgvr_core.video.pyav", "decord": "mgvr_core.video.decord"}
NAMES = tuple(_MODULES)


def decode(name: str, request: Request, max_pixels: int = MAX_PIXELS) -> Clip:
    """Decode in this process by the decoder `name`. Raises DecodeError; a hostile file can also hang or crash here.

    `Sandbox` is the safe way to call it.
    """
    return load(name)[0](request, max_pixels)


def decoder_version(name: str) -> str:
    """The decoder with the versions of all that shapes its pixels, for the fingerprint."""
    return load(name)[1]


def chain_version(name: str, fallback: str | None = None) -> str:
    """The version of a decoder and of its fallback, which may decode any file: for the fingerprint."""
    return " then ".join(decoder_version(each) for each in (name, fallback) if each is not None)


def load(name: str) -> tuple[Callable[[Request, int], Clip], str]:
    """A decoder's function and its version. Raises MgvrError where `name` is unknown or not installed here."""
    if name not in _MODULES:
        raise MgvrError(f"no video decoder is called {name!r}; there are {', '.join(NAMES)}")
    # Imported on demand: each decoder brings a native library of its own, and decord exists on few platforms.
    try:
        module = importlib.import_module(_MODULES[name])
        version: str = module.version()
    except ImportError as error:
        raise MgvrError(f"the video decoder {name!r} is not installed here ({error}); use 'pyav'") from None

    def guarded(request: Request, max_pixels: int) -> Clip:
        require_regular_file(request.path)
        clip: Clip = module.decode(request, max_pixels)
        clip.decoder = name
        return clip

    return guarded, version


def require_regular_file(path: str) -> None:
    """Raise DecodeError unless `path` is a file with bytes in it that may be read. Opening a named pipe would block
    for ever, so it is looked at first.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError("not_a_video", f"{path}: not a regular file")
        if status.st_size == 0:
            raise DecodeError("empty", f"{path}: an empty file")
        with Path(path).open("rb", buffering=0) as file:
            file.read(1)
    except (OSError, ValueError) as error:
        raise DecodeError(opening_fault(error), f"{path}: {getattr(error, 'strerror', error)}") from None


def opening_fault(error: Exception) -> Fault:
    """A name that leads nowhere, or can't be one (too long, a zero in it, a loop of links), against a failing disk."""
    nowhere = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
    return "unreadable" if isinstance(error, OSError) and error.errno not in nowhere else "missing"
