"""What the scores read: the features of videos at three granularities."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class VideoFeatures:
    """Features of V videos, all of unit length; what belongs to a padded frame is zero."""

    video: Tensor
    """v^ (V, D): mean of the valid temporal frames."""
    frames: Tensor
    """f^ (V, F, D): plain CLIP frames."""
    temporal: Tensor
    """g^ (V, F, D): frames that have seen their neighbours."""
    patches: Tensor | None
    """p^ (V, F, P, D), or None where they were not asked for."""
    mask: Tensor
    """(V, F) bool: True where there is a frame."""

    def __len__(self) -> int:
        return len(self.mask)
