"""A frame small enough to sit in a report."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def thumbnail(frame: NDArray[np.uint8], side: int) -> bytes:
    """(H, W, 3) uint8 RGB -> the bytes of a JPEG whose longer side is at most `side` pixels."""
    image = Image.fromarray(frame)
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=80)
        return file.getvalue()
