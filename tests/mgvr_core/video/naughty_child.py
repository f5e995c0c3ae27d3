"""A decoder's child that does to its process what a poisoned file does: by the file's name."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

from mgvr_core.video import child
from mgvr_core.video.decoders import Clip, Request


def misbehave(request: Request, max_pixels: int) -> Clip:
    match Path(request.path).name:
        case "hang":
            with contextlib.suppress(OSError):
                Path(request.path).touch()  # tells a test that waits for it
            ctypes.PyDLL(None).pause()  # in native code, holding the interpreter's lock
        case "segfault":
            ctypes.string_at(0)
        case "eat":
            hoard = []
            while True:
                hoard.append(np.empty(1 << 24, np.uint8))
        case "raise":
            raise ArithmeticError("a bug in the decoder")
        case "shout":
            for _ in range(1 << 13):  # 57 MB to stderr: more than any pipe holds, or the log may grow to
                with contextlib.suppress(OSError):
                    os.write(2, b"noise! " * 1000)
        case "babble":
            os.write(settings["answers_fd"], b"not a message at all" * 100)
        case "shot":
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        case "leave":
            os._exit(3)
    return Clip(np.full((1, 2, 2, 3), os.getpid() % 256, np.uint8), np.zeros(1), 1.0, 1.0, 2, 2)


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    child.serve(settings, lambda name: (misbehave, f"naughty {name}"))
