"""The process in which videos are decoded, and which may hang, crash or be killed: `python -m mgvr_core.video.child`.

It imports neither torch nor Ray, answers one request after another over two pipes, and ends when its parent does.
"""

from __future__ import annotations

import ctypes
import faulthandler
import io
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

from mgvr_core.errors import MgvrError
from mgvr_core.video import decoders, wire
from mgvr_core.video.decoders import Clip, DecodeError, Request

_PR_SET_PDEATHSIG = 1
_LOG_BYTES = 16 << 20

Load = Callable[[str], tuple[Callable[[Request, int], Clip], str]]


def serve(settings: dict[str, Any], load: Load = decoders.load) -> None:
    """Answer requests until the pipe closes. `settings` is what the sandbox wrote on the command line."""
    _die_with(settings["parent"])
    _limit(settings["memory_mb"])
    faulthandler.enable()
    requests = io.FileIO(settings["requests_fd"], "r")
    answers = io.FileIO(settings["answers_fd"], "w")
    try:
        decode, version = load(settings["decoder"])
    except MgvrError as error:
        _send(answers, {"refused": str(error)})
        return
    _send(answers, {"version": version})
    while True:
        try:
            values, _ = wire.unpack(lambda size: _read(requests, size))
        except EOFError:
            return
        _send(answers, *_answer(decode, wire.request_from_json(values), settings["max_pixels"]))


def _answer(
    decode: Callable[[Request, int], Clip], request: Request, max_pixels: int
) -> tuple[dict[str, Any], bytes | memoryview]:
    try:
        return wire.clip_to_message(decode(request, max_pixels))
    except DecodeError as error:
        return {"kind": error.kind, "message": str(error)}, b""
    except MemoryError:
        return {"kind": "memory", "message": f"{request.path}: decoding it needs more memory than the limit"}, b""
    except Exception as error:
        # The boundary of the process: whatever a decoder raises is this file's fault and must not cost the next file.
        return {"kind": "decoder_error", "message": f"{request.path}: {type(error).__name__}: {error}"}, b""


def _read(pipe: io.FileIO, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = pipe.readinto(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data


def _send(pipe: io.FileIO, message: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    for part in wire.pack(message, payload):
        view = memoryview(part)
        while view:
            view = view[pipe.write(view) :]


def _die_with(parent: int) -> None:
    """Have the kernel kill this process with its parent, even in the middle of native code. (Elsewhere than on Linux
    the closed pipe ends it, once it has finished what it is at.)
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(0)


def _limit(memory_mb: int) -> None:
    """Bound the address space, the size of the log file, and keep no core dump of a crash."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LOG_BYTES, _LOG_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
