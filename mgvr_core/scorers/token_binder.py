"""TokenBinder-style: one cross-attention over all candidates of a text jointly."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mgvr_core.scorers.blocks import (
    Embedding,
    Head,
    Layer,
    Match,
    drawn_from,
    first_and_mean,
    heads_of,
    match_macs,
    width_of,
)
from mgvr_core.scorers.joint import block_size, in_block, own_and_hardest, sentence_first
from mgvr_core.scorers.scorer import ListScorer, Setting, Sizes, Texts
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.video import video_score

LAYERS = 2


class TokenBinder(ListScorer):
    """prior + logit / s, the logit of a candidate from an attention over all candidates of the text together.

    Zhang et al.: one query, many candidates at once. After the cosine, the query's indicator tokens attend jointly over
    the frames of all candidates, and candidates are told apart by what they say that others don't. Chosen here:

    - The text's tokens are t^ and its words, in place of learned indicators. They read the temporal frames of all
      candidates in one softmax, and then those of each candidate alone, both in the space of the features and from an
      identity start (`blocks.Match`).
    - A candidate starts as v^ (projected to half of D) and the dimensions in which the text's tokens agree with its
      frames, on average. In each of two layers it reads the text's tokens, which have seen its rivals.
      No candidate carries its place in the list, which says nothing that the prior does not: so the order in which
      they are given changes no score.
    - The candidate's state gives its logit, together with two likenesses with its frames, that of t^ and the mean over
      the text's tokens. It is added to the stage-1 score in log-odds, and starts as zero. It is trained by
      cross-entropy over each text's own video and the hardest others of a batch, one list a text.
    """

    title = "TokenBinder-style"
    source = "Zhang et al., TokenBinder: Text-Video Retrieval with One-to-Many Alignment Paradigm, WACV 2025"
    formula = "t W v_k + logit_k(joint cross-attention of t and words over the temporal frames of all candidates) / s"
    reads = frozenset({"words", "video", "temporal"})

    listed: ClassVar[int] = 16
    """Candidates of a text in a training step: its own video, and those of the batch with the highest prior."""
    counted: ClassVar[int] = 50
    """Candidates over which `multiply_adds` spreads what a list costs once: stage 1's usual k."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        dim = setting.sizes.dim
        width = width_of(dim)
        with drawn_from(setting.seed):
            self.embedding = Embedding(dim)
            self.compare, self.look = Match(dim, width), Match(dim, width)
            self.layers = nn.ModuleList(Layer(width, heads_of(dim)) for _ in range(LAYERS))
            self.head = Head(width, 2, setting.scale)

    @classmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """Of one candidate in a list of 50, with n = L + 1 text tokens and W = D / 2:

        the text's reading of its frames among all 2 n F D, and alone 2 n F D + n D + n D W; each of two layers
        6 W^2 + 2 n W; a fiftieth of what the list costs once, n D + n D W and 2 n W^2 a layer. Stage 1's D and the
        head's W + 2. Queries of texts, and keys and values of frames, are computed once.
        """
        D, W, n, F = sizes.dim, width_of(sizes.dim), sizes.words + 1, sizes.frames
        mine = 2 * n * F * D + match_macs(D, n, F) + LAYERS * (6 * W**2 + 2 * n * W)
        once = n * D + n * D * W + LAYERS * 2 * n * W**2
        return mine + once // cls.counted + W + 2 + D

    def score_lists(self, texts: Texts, videos: VideoFeatures, prior: Tensor) -> Tensor:
        """(T, n), as `ListScorer.score_lists` has it; some lists at a time, computed again for a gradient."""
        T, n = prior.shape
        tokens, valid = sentence_first(texts)
        at_once = block_size(n * tokens.shape[1] * tokens.shape[2])
        logits = []
        for begin in range(0, T, at_once):
            some = slice(begin, begin + at_once)
            listed = slice(begin * n, (begin + at_once) * n)
            block = (tokens[some], valid[some], videos.video[listed], videos.temporal[listed], videos.mask[listed])
            logits.append(in_block(self._logits, at_once < T, *block))
        return prior + torch.cat(logits) / self.setting.scale

    def _logits(self, tokens: Tensor, valid: Tensor, video: Tensor, temporal: Tensor, shown: Tensor) -> Tensor:
        """tokens (T, L + 1, D) and their mask; of T * n videos v^, g^ and their mask -> (T, n)."""
        T = len(tokens)
        n = len(video) // T
        mask = shown.reshape(T, -1)  # (T, n*F)
        everyone = [each.view(T, mask.shape[1], -1) for each in self.compare.keys(temporal)]
        seen_all, _ = self.compare(self.compare.query(tokens), (everyone[0], everyone[1]), mask)
        text = self.embedding(tokens) + seen_all  # (T, L + 1, W)
        asking = self.look.query(tokens).repeat_interleave(n, dim=0)  # (T*n, L + 1, D)
        asks = valid.repeat_interleave(n, dim=0)
        match, likeness = self.look(asking, self.look.keys(temporal), shown)
        agreed = (match * asks.unsqueeze(-1)).sum(dim=1) / asks.sum(dim=1, keepdim=True)  # (T*n, W)
        state = (self.embedding(video) + agreed).view(T, n, -1)
        for layer in self.layers:
            state = layer(state, text, valid)  # (T, n, W)
        logit: Tensor = self.head(state, first_and_mean(likeness, asks).view(T, n, 2))
        return logit

    def loss(self, texts: Texts, videos: VideoFeatures, rows: slice) -> Tensor:
        """Cross-entropy of every text over a list of `listed` of the batch's videos: one direction only."""
        prior = video_score(texts.vector, videos.video, self.setting.projection.to(texts.vector))  # (B, B)
        of_text, met = own_and_hardest(prior, rows, self.listed - 1)  # (n, K)
        flat = met.flatten()
        lists = VideoFeatures(
            videos.video[flat], videos.frames[flat], videos.temporal[flat], None, videos.mask[flat]
        )  # K videos a text
        scores = self.score_lists(texts.take(rows), lists, prior[of_text, met])
        return cross_entropy(self.scale * scores, torch.zeros_like(flat[: len(met)]), reduction="sum") / len(texts)


SCORER = TokenBinder
