"""Frames as the image tower wants them: the square's side and CLIP's normalisation."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from mgvr_core.config import Section


class PreprocessConfig(Section):
    """How pixels become the model's input. Every value is part of the features' fingerprint."""

    size: int = Field(224, gt=0, description="side of the square that the model sees, in pixels")
    mean: tuple[float, float, float] = Field(
        (0.48145466, 0.4578275, 0.40821073), description="red, green and blue means of CLIP's training images"
    )
    std: tuple[float, float, float] = Field(
        (0.26862954, 0.26130258, 0.27577711), description="red, green and blue standard deviations of the same"
    )
    interpolation: Literal["bicubic"] = Field("bicubic", description="how frames are scaled; CLIP knows no other")

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """(..., H, W, 3) uint8 RGB -> (..., 3, H, W) float32, each channel (x / 255 - mean) / std."""
        mean = torch.tensor(self.mean, device=frames.device)
        std = torch.tensor(self.std, device=frames.device)
        scaled = (frames.to(torch.float32) / 255 - mean) / std  # (..., H, W, 3)
        return scaled.movedim(-1, -3).contiguous()
