"""Which instants of a video are looked at, in seconds: decided before, and apart from, any decoding."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mgvr_core.config import Section


class SamplingConfig(Section):
    """How many frames of a video are encoded, and which."""

    strategy: Literal["fps", "uniform"] = Field(
        "fps",
        description="fps: one frame every 1/fps seconds, thinned out evenly beyond `frames`; "
        "uniform: the middle of each of `frames` equal parts",
    )
    fps: float = Field(1.0, gt=0, allow_inf_nan=False, description="frames a second before thinning out (strategy fps)")
    frames: int = Field(12, gt=0, description="most frames taken of one video")


def instants(duration: float, config: SamplingConfig) -> NDArray[np.float64]:
    """The instants of a video (or segment) of `duration` seconds: (n,) seconds from its start, 1 <= n <= frames.

    Strictly increasing, from 0 inclusive to `duration` exclusive. Where the duration is 0 the one instant is 0.
    `fps` is what CLIP4Clip and EERCF evaluate with: frames at a fixed rate and, of more than `frames`, the integer
    parts of `frames` evenly spaced indices, first and last included.
    """
    if duration <= 0:
        return np.zeros(1)
    if config.strategy == "uniform":
        middles: NDArray[np.float64] = (np.arange(config.frames, dtype=np.float64) + 0.5) * (duration / config.frames)
        return middles
    count = _whole_steps(duration, config.fps)
    # For count <= frames these are all of them: 0, 1, ..., count - 1.
    steps = np.linspace(0, count - 1, num=min(count, config.frames), dtype=np.int64)
    return steps / config.fps


def _whole_steps(duration: float, fps: float) -> int:
    """How many of 0, 1/fps, 2/fps, ... lie before `duration`; the product alone is off by one where it rounds."""
    count = max(1, math.ceil(duration * fps))
    if count > 1 and (count - 1) / fps >= duration:
        return count - 1
    return count + 1 if count / fps < duration else count
