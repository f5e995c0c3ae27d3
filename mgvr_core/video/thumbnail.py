"""Frames of a video small enough to sit in a report."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FRAMES = 4
"""Frames that a thumbnail shows: a video of several events shows them all."""
_QUALITY = 75


def thumbnail(frames: NDArray[np.uint8], side: int) -> bytes:
    """(n, H, W, 3) uint8 RGB -> the bytes of a JPEG whose longer side is `side` pixels.

    Up to four frames, evenly spread over the n, stand in a square grid in reading order.
    """
    shown = frames[np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int))]
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    height, width = shown.shape[1:3]
    sheet = Image.new("RGB", (columns * width, rows * height))
    for index, frame in enumerate(shown):
        sheet.paste(Image.fromarray(frame), ((index % columns) * width, (index // columns) * height))
    scale = side / max(sheet.size)
    size = max(1, round(sheet.width * scale)), max(1, round(sheet.height * scale))
    with io.BytesIO() as file:
        sheet.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=_QUALITY, optimize=True)
        return file.getvalue()
