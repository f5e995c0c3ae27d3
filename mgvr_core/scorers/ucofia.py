"""Scorer `ucofia`: similarities at three granularities, each freed of what a video has too much of."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mgvr_core.products import product
from mgvr_core.scorers.aosm import sharpened_aosm
from mgvr_core.scorers.attention import by_blocks, patches_of, word_similarity, words_of
from mgvr_core.scorers.scorer import MatrixScorer, Read, Setting, Sizes, Texts
from mgvr_core.scorers.sinkhorn import video_offsets
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.weights import frame_similarity, patch_mask

SELECTED = 3
"""Patches of a frame that meet the words, beside the frame itself."""


class Ucofia(MatrixScorer):
    """Mean of video-sentence, sentence-frame and patch-word similarity, each normalised against training captions.

        video-sentence   <W1 t^, W2 v^>
        sentence-frame   AOSM_j <t^, f^_j>
        patch-word       half of AOSM_n AOSM_i x_in + AOSM_i AOSM_n x_in, with x_in = w^_i K y_n

    AOSM is the one with two softmaxes of `aosm.py`. The y_n are, of every frame, f^_j and the 3 patches p^_jk of the
    largest <p^_jk, v^>: no text takes part in choosing them. Words are all tokens from the start marker to the end
    marker. Learned are W1, W2 and K (D, D), the frames' matrix of sentence-frame (F, F) and the words' matrix of the
    outer AOSM_i of patch-word (L, L); all start as the identity.

    Normalised: Sinkhorn-Knopp scales exp(s x) of a part over a bank of training captions, 4 times; the logarithm of a
    video's factor, by s, is added to its similarity. In training nothing is normalised. The second softmax is all but a
    maximum and lets little gradient through to the two small matrices: it is W1, W2 and K that learn.

    "-style": the publication chooses patches by a network behind a differentiable top-k, and has three matrices more in
    patch-word: two over the chosen patches, whose places mean nothing here, and one over the words for each of them.
    With these a pair of 12 frames and 32 words at D = 512 would cost 919 K multiply-adds in place of 794 K.
    """

    title: ClassVar[str] = "UCoFiA-style"
    source: ClassVar[str] = "Wang et al., Unified Coarse-to-Fine Alignment for Video-Text Retrieval, ICCV 2023"
    formula: ClassVar[str] = (
        "mean of S(<W1 t, W2 v>), S(AOSM_j <t, f_j>), S((AOSM_n AOSM_i + AOSM_i AOSM_n) w_i K y_n / 2); S: Sinkhorn"
    )
    reads: ClassVar[frozenset[Read]] = frozenset({"words", "video", "frames", "patches"})
    reads_bank: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        D, F, L = setting.sizes.dim, setting.sizes.frames, setting.sizes.words
        self.sentence, self.video, self.word = (nn.Parameter(torch.eye(D)) for _ in range(3))
        """W1, W2 and K."""
        self.sentence_frame, self.words_second = nn.Parameter(torch.eye(F)), nn.Parameter(torch.eye(L))

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """D + F D + 4 F L D: the similarities (fewer than 4 where a frame has under 3 patches); F^2 + L^2: matrices.

        Sums of similarities by their weights are not counted; W1 and K are of a text, W2 and the choice of patches of a
        video.
        """
        D, F, L = sizes.dim, sizes.frames, sizes.words
        tokens = F * (1 + min(SELECTED, sizes.patches))
        return D + F * D + tokens * L * D + F * F + L * L

    def parts(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """The three similarities, not normalised: (3, T, V)."""
        words, there = words_of(texts)
        sentences = texts.vector @ self.sentence.T  # (T, D)
        projected = words @ self.word  # (T, L, D)

        def of(block: VideoFeatures) -> Tensor:
            tokens, token_mask = chosen_tokens(block)  # (n, N, D), (n, N)
            video_sentence = sentences @ (block.video @ self.video.T).T  # (T, n)
            by_frame = frame_similarity(texts.vector, block.frames)  # (T, n, F)
            sentence_frame = sharpened_aosm(by_frame, block.mask, self.sentence_frame)
            patch_word = self._patch_word(word_similarity(projected, tokens), there, token_mask)
            return torch.stack([video_sentence, sentence_frame, patch_word])

        return by_blocks(of, videos, there.numel() * videos.mask.shape[1] * (1 + SELECTED))

    def _patch_word(self, similarity: Tensor, words: Tensor, tokens: Tensor) -> Tensor:
        """x (T, n, L, N), masks (T, L) and (n, N) -> (T, n)."""
        of_tokens = sharpened_aosm(similarity.transpose(2, 3), words[:, None, None], None)  # (T, n, N)
        of_words = sharpened_aosm(similarity, tokens.unsqueeze(1), None)  # (T, n, L)
        by_tokens = sharpened_aosm(of_tokens, tokens, None)  # (T, n)
        return 0.5 * (by_tokens + sharpened_aosm(of_words, words.unsqueeze(1), self.words_second))

    def combine(self, parts: Tensor, columns: Tensor | None = None, bank: Tensor | None = None) -> Tensor:
        """Parts (3, T, n), their videos (T, n) in the pool, the bank's parts (3, B, N) -> (T, n)."""
        if bank is not None:
            offsets = video_offsets(bank, self.scale)  # (3, N)
            parts = parts + (offsets.unsqueeze(1) if columns is None else offsets[:, columns])
        return parts.mean(dim=0)


def chosen_tokens(videos: VideoFeatures) -> tuple[Tensor, Tensor]:
    """Every frame and its 3 patches of the largest <p^_jk, v^>: (V, N, D) and their mask (V, N), N = 4 F.

    N is less where a frame has under 3 patches. Raises ValueError where the videos came without patches.
    """
    patches = patches_of(videos)
    V, F, P, D = patches.shape
    saliency = product(videos.video.unsqueeze(1), patches.reshape(V, F * P, D)).reshape(V, F, P)  # (V, 1, F*P)
    best = saliency.topk(min(SELECTED, P), dim=-1).indices  # (V, F, 3)
    chosen = patches.gather(2, best.unsqueeze(-1).expand(-1, -1, -1, D))  # (V, F, 3, D)
    tokens = torch.cat([videos.frames.unsqueeze(2), chosen], dim=2)  # (V, F, 4, D)
    return tokens.reshape(V, -1, D), patch_mask(videos.mask, tokens.shape[2])


SCORER = Ucofia
