"""Scorer `top_frames`: a video is as good as its few best frames."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mgvr_core.scorers.attention import by_blocks, masked_mean
from mgvr_core.scorers.scorer import PairScorer, Read, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.weights import frame_similarity


class TopFrames(PairScorer):
    """The mean of the n = 3 largest <t^, f^_j> over the valid frames, of all of them where there are fewer.

    X-Pool's own baseline "top-k" averages the *vectors* of those frames and compares the text with the mean. Here the
    similarities are averaged, which needs nothing but them and lies between max frame (n = 1) and their mean (n = F).
    """

    title: ClassVar[str] = "Top 3 frames"
    source: ClassVar[str] = "after the top-k baseline of Gorti et al., X-Pool, CVPR 2022"
    formula: ClassVar[str] = "mean of the 3 largest <t, f_j>"
    reads: ClassVar[frozenset[Read]] = frozenset({"frames"})

    best: ClassVar[int] = 3
    """n."""

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """F D: the similarities."""
        return sizes.frames * sizes.dim

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""
        n = min(self.best, videos.mask.shape[1])

        def of(block: VideoFeatures) -> Tensor:
            similarity = frame_similarity(texts.vector, block.frames).masked_fill(~block.mask, float("-inf"))
            found = similarity.topk(n, dim=-1).values  # (T, B, F) -> (T, B, n), the largest first
            there = torch.arange(n, device=found.device) < block.mask.sum(dim=-1, keepdim=True)  # (B, n)
            return masked_mean(found, there)

        return by_blocks(of, videos, len(texts) * videos.mask.shape[1])


SCORER = TopFrames
