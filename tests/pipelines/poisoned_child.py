"""A decoder's child that decodes as PyAV does, and to files of some names does what a poisoned file does."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

from mgvr_core.video import child, decoders
from mgvr_core.video.decoders import Clip, Request


def misbehave(request: Request, max_pixels: int) -> Clip:
    match Path(request.path).stem:
        case "segfault":
            ctypes.string_at(0)
        case "hang":
            ctypes.PyDLL(None).pause()  # in native code, holding the interpreter's lock
        case "eat":
            hoard = [np.ones(1 << 27, np.uint8) for _ in range(80)]  # 10 GiB, all of it touched
            assert not hoard
        case _:
            return decoders.decode("pyav", request, max_pixels)
    raise AssertionError("a poisoned file was decoded")


if __name__ == "__main__":
    child.serve(json.loads(sys.argv[1]), lambda name: (misbehave, decoders.decoder_version("pyav")))
