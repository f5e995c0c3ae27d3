"""CrossTVR-style: cosine plus a matching head over decoupled cross-attention."""

from __future__ import annotations

import torch
from torch import Tensor

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
    width_of,
)
from mgvr_core.scorers.joint import JointEncoder, sentence_first
from mgvr_core.scorers.scorer import Setting, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.weights import patch_mask

LAYERS = 2


class CrossTVR(JointEncoder):
    """t^ W v^ + logit / s, the logit from a text's tokens that have read the video's.

    Dai et al.: the cosine chooses candidates (the top 15), a matching head over cross-attention decides among them, its
    attention decoupled into frames (temporal) and patches (spatial). On frozen features, as there. Chosen here:

    - The text's tokens are t^ and its words; each reads the temporal frames, and apart from them all patches of all
      frames, in the space of the features and from an identity start (`blocks.Match`).
    - What each token is (one projection to half of D), and in which dimensions it agrees with what it read of either
      kind, is added up; two layers of self-attention over the text's tokens follow. t^'s state gives the logit,
      together with four likenesses: that of t^ and the mean over all tokens, with frames and with patches.
    - The logit is added to the stage-1 score, both in log-odds; it starts as zero. It is trained on the hardest wrong
      pairs of a batch by cross-entropy over a short list, where the publication uses a yes-no loss.
    """

    title = "CrossTVR-style"
    source = (
        "Dai et al., Fine-grained Text-Video Retrieval with Frozen Image Encoders (CrossTVR), arXiv 2307.09972, 2023"
    )
    formula = "t W v + logit(t and words after cross-attention over temporal frames, and over patches) / s"
    reads = frozenset({"words", "video", "temporal", "patches"})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        dim = setting.sizes.dim
        width = width_of(dim)
        with drawn_from(setting.seed):
            self.embedding = Embedding(dim)
            self.temporal, self.spatial = Match(dim, width), Match(dim, width)
            self.encoder = Encoder(LAYERS, width, heads_of(dim))
            self.head = Head(width, 4, setting.scale)

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """With n = L + 1 text tokens, W = D / 2 and N tokens of the video, for frames N = F and for patches N = F P:

        2 n N D + n D + n D W each. Two layers over the text's tokens: 8 n W^2 + 2 n^2 W, and where t^ alone asks
        2 n W^2 + 6 W^2 + 2 n W. Stage 1's D and the head's W + 4. Queries, keys and values are computed once.
        """
        D, W, n = sizes.dim, width_of(sizes.dim), sizes.words + 1
        reading = match_macs(D, n, sizes.frames) + match_macs(D, n, sizes.frames * sizes.patches)
        return reading + encoder_macs(LAYERS, W, n) + W + 4 + D

    def read_texts(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """t^ and words, embedded, and as queries of frames and of patches: (T, L + 1, W + 2 D)."""
        tokens, mask = sentence_first(texts)
        asking = [self.embedding(tokens), self.temporal.query(tokens), self.spatial.query(tokens)]
        return torch.cat(asking, dim=-1), mask

    def read_videos(self, videos: VideoFeatures) -> tuple[Tensor, ...]:
        """The masks of frames and patches, then the keys and values of frames, and of patches."""
        patches = patches_of(videos)
        spots = self.spatial.keys(patches.flatten(1, 2))  # (V, F, P, D) -> (V, F*P, D)
        return videos.mask, patch_mask(videos.mask, patches.shape[2]), *self.temporal.keys(videos.temporal), *spots

    def pair_numbers(self, tokens: int, videos: VideoFeatures) -> int:
        """Numbers of the tokens, or of the attention over patches."""
        N = videos.mask.shape[1] * patches_of(videos).shape[2]
        return tokens * max(3 * self.setting.sizes.dim, N)

    def logits(self, tokens: Tensor, mask: Tensor, *read: Tensor) -> Tensor:
        """(v, t)."""
        v, t, n, _ = tokens.shape
        frame_mask, spot_mask, *keys = read
        D = keys[0].shape[-1]
        # All texts' tokens read a video at once, so that its keys are there once.
        flat = tokens.reshape(v, t * n, -1)
        x, of_frames, of_spots = torch.split(flat, [flat.shape[-1] - 2 * D, D, D], dim=-1)
        temporal, like_frames = self.temporal(of_frames, (keys[0], keys[1]), frame_mask)
        spatial, like_spots = self.spatial(of_spots, (keys[2], keys[3]), spot_mask)
        valid = mask.reshape(v * t, n)
        state = self.encoder((x + temporal + spatial).view(v * t, n, -1), valid)  # (v*t, W)
        likeness = [first_and_mean(like.view(v * t, n), valid) for like in (like_frames, like_spots)]
        logit: Tensor = self.head(state, torch.cat(likeness, dim=1)).view(v, t)
        return logit


SCORER = CrossTVR
