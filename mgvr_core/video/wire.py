"""Messages between the sandbox and its child: two lengths, a JSON object, raw bytes.

Arrays travel as they lie in memory. JSON and not pickle: what comes back from a process that a hostile file may have
taken over is data only.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from mgvr_core.video.decoders import Clip, Request
from mgvr_core.video.sampling import SamplingConfig

HEADER = struct.Struct("!II")

# Past this a length is nonsense: the largest honest message is a clip of some hundred frames.
_LONGEST = 1 << 30


def pack(message: dict[str, Any], payload: bytes | memoryview = b"") -> list[bytes | memoryview]:
    """The parts of one message, to be written one after another."""
    text = json.dumps(message).encode()
    return [HEADER.pack(len(text), len(payload)) + text, payload]


def unpack(read: Callable[[int], bytearray]) -> tuple[dict[str, Any], bytearray]:
    """One message by way of `read`, which returns exactly as many bytes as it is asked for."""
    text_size, payload_size = HEADER.unpack(read(HEADER.size))
    if max(text_size, payload_size) > _LONGEST:
        raise ValueError("a message that the sandbox's child can't have meant to send")
    return json.loads(bytes(read(text_size))), read(payload_size)


def request_to_json(request: Request) -> dict[str, Any]:
    """A request as plain values; a path that is no text survives as escaped surrogates."""
    return {
        "path": request.path,
        "sampling": request.sampling.model_dump(),
        "size": request.size,
        "start": request.start,
        "end": request.end,
    }


def request_from_json(values: dict[str, Any]) -> Request:
    """The inverse of request_to_json."""
    return Request(**{**values, "sampling": SamplingConfig(**values["sampling"])})


def clip_to_message(clip: Clip) -> tuple[dict[str, Any], memoryview]:
    """A clip as plain values and the bytes of its frames."""
    values = {
        "shape": clip.frames.shape,
        "timestamps": clip.timestamps.tolist(),
        "duration": clip.duration,
        "fps": clip.fps,
        "width": clip.width,
        "height": clip.height,
    }
    return values, np.ascontiguousarray(clip.frames).data.cast("B")


def clip_from_message(values: dict[str, Any], payload: bytearray) -> Clip:
    """The inverse of clip_to_message; the frames are the payload itself, not a copy."""
    frames = np.frombuffer(payload, np.uint8).reshape(values["shape"])
    timestamps = np.array(values["timestamps"], np.float64)
    return Clip(frames, timestamps, values["duration"], values["fps"], values["width"], values["height"])
