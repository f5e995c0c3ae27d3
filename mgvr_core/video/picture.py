"""Decoded frames -> the model's squares: scaled, turned upright, cut, collected into a clip."""

from __future__ import annotations

from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from mgvr_core.video.decoders import Clip
from mgvr_core.video.geometry import fit

# ACCURATE_RND and BITEXACT: the same pixels on every processor, whatever vector instructions it has. FULL_CHR_H_INP:
# colour goes into the scaler at its full width, not every second column of it.
_BICUBIC = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INP


class Shots:
    """Collects the frames of a clip, each as (size, size, 3) uint8 RGB.

    Short side to `size` (bicubic, anti-aliased where it shrinks), upright, the middle cut out. Colour: the frame's
    own matrix and range where it is tagged, BT.601 where not; HDR is not tone-mapped; an alpha channel is dropped, so
    the colour beneath it shows.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._scaler = VideoReformatter()  # keeps libswscale's tables from one frame to the next
        self._latest: VideoFrame | None = None
        self._displayed = (0, 0)
        self._squares: list[NDArray[np.uint8]] = []
        self._timestamps: list[float] = []

    def add(self, frame: VideoFrame, timestamp: float) -> None:
        """Show `frame`, presented at `timestamp` seconds. One that is shown again at once is scaled once."""
        if frame is not self._latest:
            self._latest, square = frame, self._square(frame)
        else:
            square = self._squares[-1]
        self._squares.append(square)
        self._timestamps.append(timestamp)

    def clip(self, duration: float, rate: float) -> Clip:
        """The frames added so far, at least one."""
        width, height = self._displayed
        return Clip(np.stack(self._squares), np.array(self._timestamps), duration, rate, width, height)

    def _square(self, frame: VideoFrame) -> NDArray[np.uint8]:
        a, b, c, d = _display_matrix(frame)
        turned = abs(b) > abs(a)  # rows become columns: a quarter turn
        self._displayed = (frame.height, frame.width) if turned else (frame.width, frame.height)
        scaled_w, scaled_h, crop_x, crop_y = fit(*self._displayed, self._size)
        width, height = (scaled_h, scaled_w) if turned else (scaled_w, scaled_h)
        pixels = self._scaler.reformat(frame, width, height, "rgb24", interpolation=_BICUBIC, threads=1).to_ndarray()
        if turned:
            pixels, right, down = pixels.transpose(1, 0, 2), c, b
        else:
            right, down = a, d
        pixels = pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]  # (scaled_h, scaled_w, 3), upright
        return np.ascontiguousarray(pixels[crop_y : crop_y + self._size, crop_x : crop_x + self._size])


def is_stored_upright(frame: VideoFrame) -> bool:
    """Whether the frame is shown as it is stored, neither turned nor mirrored."""
    a, b, c, d = _display_matrix(frame)
    return a > 0 and d > 0 and b == c == 0


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """a, b, c, d of the display matrix: the pixel (x, y) belongs at (a x + c y, b x + d y). See libavutil/display.h.

    Turns and mirrorings come from it; angles between quarter turns are rounded to the nearest.
    """
    try:
        side_data: Any = frame.side_data  # iterates over objects, whatever PyAV's type stubs say
        matrix = next((data for data in side_data if data.type.name == "DISPLAYMATRIX"), None)
    except ValueError:
        # PyAV 18 can't list a frame's side data if one is of a kind that it has no name for (stereo HEVC's view
        # number). It still knows the angle, counterclockwise; a mirroring is lost.
        quarter = round(frame.rotation / 90) % 4
        return ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[quarter]
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    return a, b, c, d
