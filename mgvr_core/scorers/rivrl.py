"""Scorer `rivrl`: a video skimmed and a video read closely, each compared by a latent vector and by concepts."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, cross_entropy, linear, normalize, pad

from mgvr_core.scorers.attention import words_of
from mgvr_core.scorers.scorer import MatrixScorer, Read, Setting, Sizes, Texts, take_videos
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.weights import masked_softmax

CONCEPTS = 512
"""As published."""
WINDOWS = (1, 2, 4)
"""Frames of a segment, level by level of the close reading."""
WEIGHTS = (0.3, 0.3, 0.2, 0.2)
"""Of the latent similarities of preview and close reading, and of their concept similarities."""


class Rivrl(MatrixScorer):
    """0.6 * mean of two latent cosines + 0.4 * mean of two soft Jaccard similarities, each min-max normalised.

    The two are of the preview x = v^ and of the close (intensive) reading of a video, x = [r_1, r_2, r_4]:

        r_n   normalise(sum_j a_nj M h_nj + mean_j h_nj), a_nj = softmax_j(sqrt(D) <Q v^, K h_nj>)
        h_n   the frames f^_j for n = 1, else a convolution over each n frames in a row, without padded ones
        y     [t^, normalise(mean_i w^_i)], the text

    Cosines are of linear maps of x and y to D dimensions; the Jaccard similarity is sum_k min(p_k, q_k) /
    sum_k max(p_k, q_k) of 512 concepts, p and q being sigmoids of linear maps of x and y. Preview and close reading
    have maps of their own. Each of the four similarities is brought to 0..1 by the least and the largest of all pairs
    that are ranked together, as published: what the four weigh depends on which texts and videos these are.

    The loss is the sum of the four similarities' own, none of them normalised.

    Before training the latent cosines are <t^, v^> and about <t^, mean_j f^_j>, convolutions are means, and one random
    map, of unit variance, gives the concepts of texts and videos.

    "-style": the publication reads features of before CLIP. Its preview is the mean of a bidirectional GRU over frames,
    where v^ is the mean of the temporal ones; its windows are longer, as its videos are; its attention ends in a
    perceptron, its maps in batch normalisation and dropout, which are left out. Its text is a bag of words, a GRU with
    convolutions and BERT. Its concepts are frequent words, taught by captions beside the ranking: features hold no
    words, so that the ranking alone shapes them. Its loss is the triplet loss, here the cross-entropy of all scorers.
    """

    title: ClassVar[str] = "RIVRL-style"
    source: ClassVar[str] = (
        "Dong et al., Reading-Strategy Inspired Visual Representation Learning for Text-to-Video Retrieval, TCSVT 2022"
    )
    formula: ClassVar[str] = "0.6 mean(cos_preview, cos_intensive) + 0.4 mean(J_preview, J_intensive), each min-max"
    reads: ClassVar[frozenset[Read]] = frozenset({"words", "video", "frames"})
    transductive: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        D = setting.sizes.dim
        self.query, self.key, self.value = (nn.Parameter(torch.eye(D)) for _ in range(3))
        """Q, K and M."""
        self.segments = nn.ParameterList(torch.eye(D).unsqueeze(-1).repeat(1, 1, n) / n for n in WINDOWS[1:])
        """(D, D, n) each."""
        drawn = torch.randn(CONCEPTS, D, generator=torch.Generator().manual_seed(setting.seed))
        self.latent = nn.ModuleList(_Maps(torch.eye(D), levels) for levels in (1, len(WINDOWS)))
        self.concept = nn.ModuleList(_Maps(drawn, levels) for levels in (1, len(WINDOWS)))
        """Of the preview, and of the close reading."""

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """2 D + 2 * 512: two dot products, and the differences of two Jaccard similarities, which multiply nothing."""
        return 2 * sizes.dim + 2 * CONCEPTS

    def parts(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """Two latent cosines, then two Jaccard similarities, preview first: (4, T, V)."""
        words, _ = words_of(texts)  # padded ones are zero
        text = torch.cat([texts.vector, normalize(words.sum(dim=1), dim=-1)], dim=-1)  # (T, 2 D)
        read = (videos.video, self._closely(videos))  # (V, D), (V, 3 D)
        latent = []
        concept = []
        for maps, video in zip(self.latent, read, strict=True):
            of_text, of_video = maps(text, video)
            latent.append(normalize(of_text, dim=-1) @ normalize(of_video, dim=-1).T)
        for maps, video in zip(self.concept, read, strict=True):
            of_text, of_video = maps(text, video)
            concept.append(soft_jaccard(of_text.sigmoid(), of_video.sigmoid()))
        return torch.stack(latent + concept)

    def _closely(self, videos: VideoFeatures) -> Tensor:
        """[r_1, r_2, r_4] (V, 3 D). A video of too few frames for a window has zeros there."""
        question = videos.video @ self.query.T  # (V, D)
        levels = [self._attended(question, videos.frames, videos.mask)]
        for n, kernel in zip(WINDOWS[1:], self.segments, strict=True):
            missing = max(0, n - videos.mask.shape[1])
            frames = pad(videos.frames, (0, 0, 0, missing))  # (V, F, D)
            mask = pad(videos.mask, (0, missing)).unfold(1, n, 1).all(dim=-1)  # (V, F - n + 1)
            levels.append(self._attended(question, conv1d(frames.transpose(1, 2), kernel).transpose(1, 2), mask))
        return torch.cat(levels, dim=-1)

    def _attended(self, question: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
        """r_n of questions (V, D), segments (V, S, D) and their mask (V, S) -> (V, D)."""
        logits = torch.einsum("vd,vsd->vs", question, segments @ self.key.T)
        attention = masked_softmax(logits, mask, temperature=segments.shape[-1] ** -0.5)  # (V, S)
        read = torch.einsum("vs,vsd->vd", attention, segments @ self.value.T)
        mean = (segments * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)  # (V, D)
        return normalize(read + mean, dim=-1)

    def combine(self, parts: Tensor, columns: Tensor | None = None, bank: Tensor | None = None) -> Tensor:
        """(4, T, n) -> (T, n) in 0..1. A similarity that is the same for all pairs counts 0."""
        del columns, bank
        least, largest = parts.amin(dim=(1, 2), keepdim=True), parts.amax(dim=(1, 2), keepdim=True)
        normalised = (parts - least) / (largest - least).clamp_min(torch.finfo(parts.dtype).tiny)
        return torch.einsum("c,ctn->tn", normalised.new_tensor(WEIGHTS), normalised)

    def loss(self, texts: Texts, videos: VideoFeatures, rows: slice) -> Tensor:
        """Half the cross-entropy of each of the four similarities in either direction, summed: the share of `rows`."""
        B = len(texts)
        targets = torch.arange(B, device=texts.vector.device)[rows]
        across = self.parts(texts.take(rows), videos)  # (4, n, B)
        # One worker has the whole matrix already.
        down = across if len(targets) == B else self.parts(texts, take_videos(videos, rows))  # (4, B, n)
        logits = self.scale * torch.cat([across, down.transpose(1, 2)]).flatten(0, 1)  # (8 n, B)
        return 0.5 * cross_entropy(logits, targets.repeat(2 * len(WEIGHTS)), reduction="sum") / B


class _Maps(nn.Module):
    """Linear maps of a text (2 D) and of a video's levels (n D) to one space of E dimensions.

    It starts with one map (E, D), of t^ and of the mean of the levels.
    """

    def __init__(self, start: Tensor, levels: int) -> None:
        super().__init__()
        E = len(start)
        self.text = nn.Parameter(torch.cat([start, torch.zeros_like(start)], dim=1))
        self.video = nn.Parameter(start.repeat(1, levels) / levels)
        self.text_bias, self.video_bias = nn.Parameter(torch.zeros(E)), nn.Parameter(torch.zeros(E))

    def forward(self, text: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """(T, 2 D), (V, n D) -> (T, E), (V, E)."""
        return linear(text, self.text, self.text_bias), linear(video, self.video, self.video_bias)


def soft_jaccard(texts: Tensor, videos: Tensor) -> Tensor:
    """sum_k min(p_k, q_k) / sum_k max(p_k, q_k) of all pairs: (T, K), (V, K), positive -> (T, V).

    By min(p, q) = (p + q - |p - q|) / 2 and max(p, q) = (p + q + |p - q|) / 2, so that no (T, V, K) is made.
    """
    total = texts.sum(dim=1).unsqueeze(1) + videos.sum(dim=1)
    apart = torch.cdist(texts, videos, p=1.0)
    return (total - apart) / (total + apart)


SCORER = Rivrl
