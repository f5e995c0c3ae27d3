"""RAP-style: adapters on the stored features of frozen CLIP, and a cosine."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mgvr_core.errors import MgvrError
from mgvr_core.scorers.blocks import drawn_from, zero_linear
from mgvr_core.scorers.scorer import PairScorer, Setting, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures

RANK = 8
"""Of the modulation over frames."""


class _Adapter(nn.Sequential):
    """What is added to a feature: D -> D / 4 -> D; starts as zero."""

    def __init__(self, dim: int) -> None:
        inside = max(1, dim // 4)
        super().__init__(nn.Linear(dim, inside), nn.GELU(), zero_linear(inside, dim))


class _Modulation(nn.Module):
    """(F, D) numbers of rank 8, one row a frame; starts as zero."""

    def __init__(self, frames: int, dim: int) -> None:
        super().__init__()
        self.of_frames = nn.Parameter(torch.randn(frames, RANK) / RANK**0.5)
        self.of_channels = nn.Parameter(torch.zeros(RANK, dim))

    def forward(self) -> Tensor:
        return self.of_frames @ self.of_channels


class RAP(PairScorer):
    """<a(t^), normalise(mean_j of c_j (*) f^_j + d_j + b(f^_j))>, a and b adapters, c and d one row a frame.

    Cao et al. freeze CLIP and train little modules inside its layers: a low-rank modulation over frames (scale c and
    shift d of rank r along time, so that frames that say the same are damped), and an attention between selected
    patches of neighbouring frames; outside, CLIP's cosine with the mean of frames. On stored features, here:

    - The modulation acts once, on the plain frames f^: c = 1 + (F x 8)(8 x D), d = (F x 8)(8 x D). A frame's row is its
      place among the valid frames.
    - Adapters of two layers (D -> D / 4 -> D, GELU) are added to t^ and to each frame, in place of those inside CLIP.
    - The attention between patches is left out: it can't be had outside CLIP's layers.

    It starts as mean pool. A text and a video are adapted once, so that a pair costs one dot product.
    """

    title = "RAP-style"
    source = "Cao et al., RAP: Efficient Text-Video Retrieval with Sparse-and-Correlated Adapter, ACL Findings 2024"
    formula = "<t + A(t), normalise(mean_j (c_j * f_j + d_j + B(f_j)))>"
    reads = frozenset({"frames"})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        sizes = setting.sizes
        with drawn_from(setting.seed):
            self.text, self.frame = _Adapter(sizes.dim), _Adapter(sizes.dim)
            self.gain, self.shift = _Modulation(sizes.frames, sizes.dim), _Modulation(sizes.frames, sizes.dim)

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """D: one dot product."""
        return sizes.dim

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V). Raises MgvrError where a video has more frames than the scorer was made for."""
        F = self.setting.sizes.frames
        if videos.mask.sum(dim=1).max() > F:
            raise MgvrError(
                f"a video has more than the {F} frames that this rap scorer was made for: train it for more"
            )
        text = normalize(texts.vector + self.text(texts.vector), dim=-1)
        place = (videos.mask.long().cumsum(dim=1) - 1).clamp_min(0)  # (V, F): of padded frames it does not matter
        gain, shift = self.gain()[place], self.shift()[place]  # (V, F, D)
        frames = videos.frames * (1 + gain) + shift + self.frame(videos.frames)
        pooled = (frames * videos.mask.unsqueeze(-1)).sum(dim=1)  # (V, F, D) -> (V, D)
        return text @ normalize(pooled, dim=-1).T


SCORER = RAP
