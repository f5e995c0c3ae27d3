"""Scorer `x_clip`: similarities at four granularities, with attention over each."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mgvr_core.scorers.aosm import aosm
from mgvr_core.scorers.attention import by_blocks, word_similarity, words_of
from mgvr_core.scorers.scorer import PairScorer, Read, Setting, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.weights import frame_similarity


class XClip(PairScorer):
    """Mean of video-sentence, video-word, sentence-frame and word-frame similarity.

        video-sentence   t^ G v^
        video-word       AOSM_i <w^_i, v^>
        sentence-frame   AOSM_j <t^, f^_j>
        word-frame       half of AOSM_j AOSM_i x_ij + AOSM_i AOSM_j x_ij, with x_ij = w^_i K f^_j

    AOSM is that of `aosm.py`, at temperature 0.01. Learned are G and K (D, D) and a matrix for each of the six AOSM,
    (F, F) or (L, L); all start as the identity. Words are all tokens from the start marker to the end marker and frames
    are plain, as in the released model; there padded ones take part, here they do not.
    """

    title: ClassVar[str] = "X-CLIP"
    source: ClassVar[str] = (
        "Ma et al., X-CLIP: End-to-End Multi-grained Contrastive Learning for Video-Text Retrieval, ACM MM 2022"
    )
    formula: ClassVar[str] = (
        "(t G v + AOSM_i <w_i, v> + AOSM_j <t, f_j> + (AOSM_j AOSM_i + AOSM_i AOSM_j) w_i K f_j / 2) / 4"
    )
    reads: ClassVar[frozenset[Read]] = frozenset({"words", "video", "frames"})

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        D, F, L = setting.sizes.dim, setting.sizes.frames, setting.sizes.words
        self.sentence, self.word = nn.Parameter(torch.eye(D)), nn.Parameter(torch.eye(D))
        """G and K."""
        self.video_word, self.sentence_frame = nn.Parameter(torch.eye(L)), nn.Parameter(torch.eye(F))
        self.words_first, self.frames_second = nn.Parameter(torch.eye(L)), nn.Parameter(torch.eye(F))
        self.frames_first, self.words_second = nn.Parameter(torch.eye(F)), nn.Parameter(torch.eye(L))

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """D + L D + F D + L F D: the similarities; L^2 + F^2 + (F L^2 + F^2) + (L F^2 + L^2): the AOSM's matrices.

        The first AOSM of two acts on every frame's row of words, or every word's row of frames. Sums of similarities by
        their weights are not counted; G and K are of a text.
        """
        D, F, L = sizes.dim, sizes.frames, sizes.words
        return (1 + L + F + L * F) * D + (2 + F) * L * L + (2 + L) * F * F

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""
        words, there = words_of(texts)
        sentences = texts.vector @ self.sentence  # (T, D)
        projected = words @ self.word  # (T, L, D)

        def of(block: VideoFeatures) -> Tensor:
            video_sentence = sentences @ block.video.T  # (T, n)
            by_word = word_similarity(words, block.video.unsqueeze(1)).squeeze(-1)  # (T, n, L)
            video_word = aosm(by_word, there.unsqueeze(1), self.video_word)
            sentence_frame = aosm(frame_similarity(texts.vector, block.frames), block.mask, self.sentence_frame)
            word_frame = self._word_frame(word_similarity(projected, block.frames), there, block.mask)
            return (video_sentence + video_word + sentence_frame + word_frame) / 4

        return by_blocks(of, videos, there.numel() * videos.mask.shape[1])

    def _word_frame(self, similarity: Tensor, words: Tensor, frames: Tensor) -> Tensor:
        """x (T, n, L, F), masks (T, L) and (n, F) -> (T, n)."""
        of_frames = aosm(similarity.transpose(2, 3), words[:, None, None], self.words_first)  # (T, n, F)
        of_words = aosm(similarity, frames.unsqueeze(1), self.frames_first)  # (T, n, L)
        return 0.5 * (
            aosm(of_frames, frames, self.frames_second) + aosm(of_words, words.unsqueeze(1), self.words_second)
        )


SCORER = XClip
