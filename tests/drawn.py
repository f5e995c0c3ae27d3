"""Features that the tests draw."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize


def normal(random: np.random.Generator, *shape: int) -> Tensor:
    """Numbers of the normal distribution, float32."""
    return torch.from_numpy(random.normal(size=shape).astype(np.float32))


def near_features(
    seed: int, videos: int, sizes: tuple[int, int, int], middle: float, spreads: tuple[float, float, float, float]
) -> dict[str, Tensor]:
    """Unit vectors that lie about their video's, as CLIP's do; the last frames of some videos are padding.

    sizes: F frames, P patches a frame, D dimensions. middle: how far all videos lie to one side. spreads: of the videos
    about that, of frames about their video, of temporal frames and of patches about their frame.
    """
    F, P, D = sizes
    generator = torch.Generator().manual_seed(seed)

    def near(base: Tensor, spread: float, *shape: int) -> Tensor:
        return normalize(base + spread * torch.randn(*shape, D, generator=generator) / D**0.5, dim=-1)

    of_videos, of_frames, of_temporal, of_patches = spreads
    video = near(torch.full((D,), middle) / D**0.5, of_videos, videos)
    frames = near(video[:, None], of_frames, videos, F)
    mask = torch.ones(videos, F, dtype=torch.bool)
    mask[::3, -1] = False
    hidden = mask[..., None]
    return {
        "video": video,
        "frames": frames * hidden,
        "temporal": near(frames, of_temporal, videos, F) * hidden,
        "patches": near(frames[:, :, None], of_patches, videos, F, P) * hidden[..., None],
        "mask": mask,
    }
