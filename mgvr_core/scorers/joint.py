"""What the joint encoders share: a logit of every pair on top of the stage-1 score, in blocks of pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from mgvr_core.scorers.attention import words_of
from mgvr_core.scorers.scorer import PairScorer, Texts, take_videos
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.video import video_score

_AT_ONCE = 1 << 22
"""Numbers of the largest array that a block of pairs or lists makes, unless one alone has more."""


class JointEncoder(PairScorer):
    """prior + logit / s: the stage-1 score t^ W v^ of a pair, and what an encoder of both adds to it.

    s is the model's temperature, so that s times the score is s t^ W v^ + logit: a logit is added to log-odds, and
    scores stay in the cosines' units. The logit starts as zero.

    Pairs are scored in blocks: whatever T and V are, a call holds little more than its videos' tokens; where a gradient
    is asked for and there are several blocks, a block is computed again when its gradient is due.
    """

    negatives: ClassVar[int] = 3
    """Wrong videos of a text, and wrong texts of a video, that a training step shows it: those of the highest prior."""

    @abstractmethod
    def read_texts(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """What is computed once a text: its L + 1 tokens, the sentence's first (T, L + 1, .), and their mask."""

    @abstractmethod
    def read_videos(self, videos: VideoFeatures) -> tuple[Tensor, ...]:
        """What is computed once a video: tensors (V, ...)."""

    @abstractmethod
    def logits(self, tokens: Tensor, mask: Tensor, *read: Tensor) -> Tensor:
        """t texts with each of v videos: tokens (v, t, L + 1, .), mask (v, t, L + 1), `read_videos` of v -> (v, t)."""

    @abstractmethod
    def pair_numbers(self, tokens: int, videos: VideoFeatures) -> int:
        """Numbers of the largest array that one pair makes, of a text of so many tokens."""

    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""
        tokens, mask = self.read_texts(texts)
        at_once = block_size(self.pair_numbers(tokens.shape[1], videos))
        columns = max(1, at_once // len(texts))  # videos that meet all texts in one block
        several = len(texts) * len(videos) > at_once
        logits = []
        for begin in range(0, len(videos), columns):
            read = self.read_videos(take_videos(videos, slice(begin, begin + columns)))
            v = len(read[0])
            blocks = [
                in_block(self.logits, several, some.expand(v, *some.shape), valid.expand(v, *valid.shape), *read)
                for some, valid in zip(torch.split(tokens, at_once), torch.split(mask, at_once), strict=True)
            ]
            logits.append(torch.cat(blocks, dim=1))  # (v, T), of blocks (v, t)
        return self._prior(texts, videos) + torch.cat(logits).T / self.setting.scale

    def loss(self, texts: Texts, videos: VideoFeatures, rows: slice) -> Tensor:
        """Half the cross-entropy of every text over its own video and the `negatives` hardest, and the other way round.

        The hardest are those of the batch with the highest prior: what the scorer has to tell apart as a rerank.
        Of all B^2 pairs it scores 2 B (1 + negatives).
        """
        B = len(texts)
        prior = self._prior(texts, videos)  # (B, B)
        of_text, videos_of_text = own_and_hardest(prior, rows, self.negatives)  # (n, K) each
        of_video, texts_of_video = own_and_hardest(prior.T, rows, self.negatives)
        text = torch.cat([of_text, texts_of_video])  # (2 n, K)
        video = torch.cat([videos_of_text, of_video])
        scores = prior[text, video] + self._pairs(texts, videos, text.flatten(), video.flatten()).view_as(text)
        return 0.5 * cross_entropy(self.scale * scores, torch.zeros_like(text[:, 0]), reduction="sum") / B

    def _pairs(self, texts: Texts, videos: VideoFeatures, text: Tensor, video: Tensor) -> Tensor:
        """logit / s of pairs, by their rows: text and video (M,) -> (M,)."""
        tokens, mask = self.read_texts(texts)
        read = self.read_videos(videos)
        at_once = block_size(self.pair_numbers(tokens.shape[1], videos))
        again = len(text) > at_once
        blocks = [
            in_block(self.logits, again, tokens[t].unsqueeze(1), mask[t].unsqueeze(1), *(each[v] for each in read))
            for t, v in zip(torch.split(text, at_once), torch.split(video, at_once), strict=True)
        ]
        return torch.cat(blocks).squeeze(1) / self.setting.scale

    def _prior(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        return video_score(texts.vector, videos.video, self.setting.projection.to(texts.vector))


def block_size(numbers: int) -> int:
    """How many pairs or lists are scored at once; numbers: of the largest array that one of them makes."""
    return max(1, _AT_ONCE // numbers)


def in_block(logits: Callable[..., Tensor], again: bool, *arguments: Tensor) -> Tensor:
    """The logits of one block. again: where a gradient is asked for, compute them a second time when it is due."""
    if again and torch.is_grad_enabled():
        recomputed: Tensor = checkpoint(logits, *arguments, use_reentrant=False)
        return recomputed
    return logits(*arguments)


def own_and_hardest(prior: Tensor, rows: slice, negatives: int) -> tuple[Tensor, Tensor]:
    """Of some rows of a batch's (B, B) scores: the row itself, and what it meets: its own column, then the hardest.

    Returns two (n, K): K = 1 + negatives, or B where the batch has fewer.
    """
    B = len(prior)
    own = torch.arange(B, device=prior.device)[rows].unsqueeze(1)  # (n, 1)
    wrong = prior[rows].detach().scatter(1, own, float("-inf"))
    hardest = wrong.topk(min(negatives, B - 1), dim=1).indices
    met = torch.cat([own, hardest], dim=1)
    return own.expand_as(met), met


def sentence_first(texts: Texts) -> tuple[Tensor, Tensor]:
    """t^ and the words of every text as one row of tokens: (T, L + 1, D) and its mask; L of the longest text.

    Raises ValueError where the texts have no words.
    """
    words, there = words_of(texts)
    tokens = torch.cat([texts.vector.unsqueeze(1), words], dim=1)
    return tokens, torch.cat([there.new_ones(len(texts), 1), there], dim=1)
