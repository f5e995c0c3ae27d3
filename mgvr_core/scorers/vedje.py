"""VEDJE-style: a small joint encoder over cached tokens, with the stage-1 score as prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mgvr_core.scorers.attention import patches_of
from mgvr_core.scorers.blocks import (
    Embedding,
    Encoder,
    Head,
    Match,
    drawn_from,
    encoder_macs,
    first_and_mean,
    heads_of,
    match_macs,
    sinusoids,
    width_of,
)
from mgvr_core.scorers.joint import JointEncoder, sentence_first
from mgvr_core.scorers.scorer import Setting, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures

LAYERS = 2
SPOTS = 4
"""Tokens that a frame's patches are compressed to."""


class VEDJE(JointEncoder):
    """t^ W v^ + logit / s, the logit from one transformer over a text's tokens and a video's cached ones together.

    The publication caches ordered tokens of single frames once a video, and reads them with a cross-encoder of 33
    million parameters whose score is added to the first stage's; the compression is that of EDJE (Keren Taraday et
    al., 2025): learned queries over a frame's patches. Chosen here:

    - Cached are F temporal frames and 4 tokens a frame, means of its patches weighted by learned queries: 60 tokens of
      D numbers for 12 frames, with their frame's place (fixed sinusoids, padded frames not counted) and their kind.
    - The text's tokens are t^ and its words. For want of a pretrained language model, which learns from scale what goes
      with what, each first reads the cache in the space of the features, from an identity start (`blocks.Match`).
    - All tokens, projected to half of D, go through two pre-norm layers. t^'s state gives the logit, together with two
      likenesses with the cache, that of t^ and the mean over the text's tokens. The logit starts as zero.
    - The publication's further training loss over frame-to-frame changes is left out.
    """

    title = "VEDJE-style"
    source = "VEDJE: Video-Efficient Discriminative Joint Encoder for Scalable Video-Text Retrieval, 2026"
    formula = "t W v + logit(joint transformer over t, words, temporal frames and 4 patch tokens a frame) / s"
    reads = frozenset({"words", "video", "temporal", "patches"})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        dim = setting.sizes.dim
        width = width_of(dim)
        with drawn_from(setting.seed):
            self.embedding = Embedding(dim)
            self.queries = nn.Parameter(torch.randn(SPOTS, dim))
            self.kinds = nn.Parameter(0.02 * torch.randn(1 + SPOTS, width))
            self.match = Match(dim, width)
            self.encoder = Encoder(LAYERS, width, heads_of(dim))
            self.head = Head(width, 2, setting.scale)

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """With n = L + 1 text tokens, N = 5 F cached ones, S = n + N and W = D / 2:

        the reading 2 n N D + n D + n D W; two layers 8 S W^2 + 2 S^2 W, and where t^ alone asks 2 S W^2 + 6 W^2 +
        2 S W. Stage 1's D and the head's W + 2. The cache with its keys and values, and the queries, are computed once.
        """
        D, W, n, N = sizes.dim, width_of(sizes.dim), sizes.words + 1, (1 + SPOTS) * sizes.frames
        return match_macs(D, n, N) + encoder_macs(LAYERS, W, n + N) + W + 2 + D

    def read_texts(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """t^ and words, embedded, and as queries of the cache: (T, L + 1, W + D)."""
        tokens, mask = sentence_first(texts)
        return torch.cat([self.embedding(tokens), self.match.query(tokens)], dim=-1), mask

    def read_videos(self, videos: VideoFeatures) -> tuple[Tensor, ...]:
        """Mask (V, 5 F), tokens (V, 5 F, W), keys and values (V, 5 F, D)."""
        patches = patches_of(videos)
        V, F, P, D = patches.shape
        flat = patches.reshape(V * F, P, D)
        spots = scaled_dot_product_attention(self.queries.expand(V * F, -1, -1), flat, flat).view(V, F, SPOTS, D)
        cache = torch.cat([videos.temporal.unsqueeze(2), spots], dim=2)  # (V, F, 5, D)
        tokens = self.embedding(cache) + self.kinds  # (V, F, 5, W)
        tokens = tokens + sinusoids(videos.mask, tokens.shape[-1]).unsqueeze(2)
        mask = videos.mask.repeat_interleave(1 + SPOTS, dim=1)
        return mask, tokens.flatten(1, 2), *self.match.keys(cache.flatten(1, 2))

    def pair_numbers(self, tokens: int, videos: VideoFeatures) -> int:
        """Numbers of the perceptron's inside, or of the attention over all tokens."""
        S, dim = tokens + (1 + SPOTS) * videos.mask.shape[1], self.setting.sizes.dim
        return S * max(2 * width_of(dim), heads_of(dim) * S)

    def logits(self, tokens: Tensor, mask: Tensor, *read: Tensor) -> Tensor:
        """(v, t)."""
        v, t, n, _ = tokens.shape
        cache_mask, cache, keys, values = read
        x, query = torch.split(tokens.reshape(v, t * n, -1), [cache.shape[-1], keys.shape[-1]], dim=-1)
        match, likeness = self.match(query, (keys, values), cache_mask)
        every = [(x + match).view(v, t, n, -1), cache.unsqueeze(1).expand(v, t, *cache.shape[1:])]
        there = [mask, cache_mask.unsqueeze(1).expand(v, t, -1)]
        state = self.encoder(torch.cat(every, dim=2).flatten(0, 1), torch.cat(there, dim=2).flatten(0, 1))  # (v*t, W)
        logit: Tensor = self.head(state, first_and_mean(likeness.view(v * t, n), mask.reshape(v * t, n))).view(v, t)
        return logit


SCORER = VEDJE
