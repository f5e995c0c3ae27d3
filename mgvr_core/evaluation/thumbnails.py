"""Pictures small enough to stand inside a page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

_SIDE = 176  # pixels: a card of the page at twice its width on a phone, at its width on a desktop
_QUALITY = 72


def thumbnail(frames: Sequence[npt.NDArray[np.uint8]], side: int = _SIDE) -> str:
    """A `data:image/jpeg` URI that shows the frames, each (H, W, 3) uint8 RGB of one size, in reading order.

    One frame fills the picture; several stand in a square grid, so that a clip of several events shows them all.
    The longer side of the picture is `side` pixels.
    """
    columns = math.ceil(math.sqrt(len(frames)))
    rows = math.ceil(len(frames) / columns)
    height, width = frames[0].shape[:2]
    sheet = Image.new("RGB", (columns * width, rows * height))
    for index, frame in enumerate(frames):
        sheet.paste(Image.fromarray(frame), ((index % columns) * width, (index // columns) * height))
    scale = side / max(sheet.size)
    small = sheet.resize(
        (max(1, round(sheet.width * scale)), max(1, round(sheet.height * scale))), Image.Resampling.LANCZOS
    )
    data = io.BytesIO()
    small.save(data, format="JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
