"""Scorer `x_pool`: a text's attention over frames makes the video vector that it is compared with."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mgvr_core.scorers.attention import by_blocks
from mgvr_core.scorers.blocks import drawn_from
from mgvr_core.scorers.scorer import PairScorer, Read, Setting, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.weights import frame_similarity, masked_softmax


class XPool(PairScorer):
    """<t^, normalise(z)>, z being the video's frames as pooled by the text.

        a = softmax_j(<Q n1(t^), K n1(f^_j)> / sqrt(D))
        y = n2(O sum_j a_j V n1(f^_j))
        z = n3(y + P y)

    n1, n2 and n3 are layer normalisations, Q, K, V, O and P linear layers whose matrices start as the identity and
    whose biases start at zero, as published. n1 gives unit vectors the length that it gives CLIP's own. In training the
    released model drops 30 % of P y; here nothing is dropped. Padded frames have no weight.
    """

    title: ClassVar[str] = "X-Pool"
    source: ClassVar[str] = (
        "Gorti et al., X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval, CVPR 2022"
    )
    formula: ClassVar[str] = (
        "cos(t, n3(y + P y)), y = n2(O sum_j a_j V n1(f_j)), a = softmax_j(<Q n1(t), K n1(f_j)> / sqrt(D))"
    )
    reads: ClassVar[frozenset[Read]] = frozenset({"frames"})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        D = setting.sizes.dim
        with drawn_from(setting.seed):  # and put away: a linear layer can't be made without
            self.query, self.value, self.out, self.linear = (_identity(D) for _ in range(4))
            """Q, V, O and P."""
        self.key = nn.Parameter(torch.eye(D))
        """K; its bias would add the same to all of a text's logits."""
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(D) for _ in range(3))

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """2 D^2 + 2 F D + D: O and P of the pooled vector, the attention's logits and its sum, one dot product.

        Q is of a text, K and V are of a video.
        """
        return 2 * sizes.dim**2 + 2 * sizes.frames * sizes.dim + sizes.dim

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""
        query = self.query(self.norm1(texts.vector))  # (T, D)
        T, D = query.shape

        def of(block: VideoFeatures) -> Tensor:
            frames = self.norm1(block.frames)  # (n, F, D)
            logits = frame_similarity(query, frames @ self.key.T)  # (T, n, F)
            attention = masked_softmax(logits, block.mask, temperature=D**0.5)
            pooled = (attention.transpose(0, 1) @ self.value(frames)).transpose(0, 1)  # (n, T, F) -> (T, n, D)
            pooled = self.norm2(self.out(pooled))
            pooled = normalize(self.norm3(pooled + self.linear(pooled)), dim=-1)
            cosine: Tensor = torch.linalg.vecdot(texts.vector.unsqueeze(1), pooled)
            return cosine

        return by_blocks(of, videos, T * D)


def _identity(dim: int) -> nn.Linear:
    """A linear layer D -> D that changes nothing yet."""
    layer = nn.Linear(dim, dim)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


SCORER = XPool
