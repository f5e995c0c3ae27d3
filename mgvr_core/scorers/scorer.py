"""What a scorer is: a way to score texts against videos from stored features, in a file of its own.

A scorer is added by writing one module here whose `SCORER` is a `PairScorer`, `MatrixScorer` or `ListScorer`; the
module's name is its name.
Sizes: T texts, V videos, F frames, P patches a frame, L words, D dimensions, C parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mgvr_core.scoring.features import VideoFeatures

Read = Literal["words", "video", "frames", "temporal", "patches"]
Kind = Literal["pair", "matrix", "list"]


@dataclass(frozen=True)
class Texts:
    """T texts, all vectors of unit length; what belongs to a padded word is zero."""

    vector: Tensor
    """t^ (T, D)."""
    words: Tensor | None
    """w^ (T, L, D): every token of the text, its end marker included, in the space of t^; None: not asked for."""
    word_mask: Tensor | None
    """(T, L) bool: True where there is a word."""

    def __len__(self) -> int:
        return len(self.vector)

    def take(self, rows: Tensor | slice) -> Texts:
        """Some texts, by their rows."""
        words = None if self.words is None else self.words[rows]
        return Texts(self.vector[rows], words, None if self.word_mask is None else self.word_mask[rows])


def take_videos(videos: VideoFeatures, rows: Tensor | slice) -> VideoFeatures:
    """Some videos, by their rows."""
    patches = None if videos.patches is None else videos.patches[rows]
    return VideoFeatures(videos.video[rows], videos.frames[rows], videos.temporal[rows], patches, videos.mask[rows])


@dataclass(frozen=True)
class Sizes:
    """What multiply-adds are counted for."""

    frames: int
    """F."""
    patches: int
    """P, 0 where there are none."""
    dim: int
    """D."""
    words: int
    """L, text tokens."""


@dataclass(frozen=True)
class Setting:
    """What a scorer is made for: sizes, and what the model that made the features has learned."""

    sizes: Sizes
    projection: Tensor
    """W (D, D) of the coarse score t^ W v^."""
    mixing: Tensor | None = None
    """U (F, F) of the weak frame score; None: the identity."""
    scale: float = 100.0
    """exp(logit_scale): what cosines are multiplied by before a softmax over videos or texts."""
    seed: int = 0
    """Of whatever weights are drawn."""


class Scorer(nn.Module, ABC):
    """Scores of texts against videos; higher is better.

    A subclass says what it is in the class attributes below and in its docstring: the formula and what was chosen where
    the publication leaves it open. It has weights of its own if it has parameters; those start so that the score is
    of use before any training, where that can be. W, U and the temperature are the model's, and are in `setting`.

    Three kinds, by what a score depends on: `PairScorer`, `MatrixScorer`, `ListScorer`.
    """

    title: ClassVar[str]
    """As a table shows it: `X-Pool`, `CrossTVR-style`."""
    source: ClassVar[str]
    """Authors, title, venue, year."""
    formula: ClassVar[str]
    """One line."""
    reads: ClassVar[frozenset[Read]]
    """What it needs beside t^."""
    kind: ClassVar[Kind]
    transductive: ClassVar[bool] = False
    """Whether it normalises over what is ranked, so that a score depends on the other queries."""
    reads_bank: ClassVar[bool] = False
    """Whether it normalises against a bank of training captions."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting

    @property
    def learned(self) -> bool:
        """Whether it has weights of its own, which `mgvr train --scorer` trains."""
        return any(True for _ in self.parameters())

    @property
    def scale(self) -> float:
        """What scores are multiplied by in the loss: the model's temperature, for scores that are cosines."""
        return self.setting.scale

    @classmethod
    @abstractmethod
    def multiply_adds(cls, sizes: Sizes) -> int:
        """Multiply-adds of one pair, beyond what is computed once for a text or once for a video."""

    @abstractmethod
    def loss(self, texts: Texts, videos: VideoFeatures, rows: slice) -> Tensor:
        """Of a batch of B pairs, text i with video i, the share of `rows`: a sum over them, divided by B."""


class MatrixScorer(Scorer):
    """Several scores of a pair, which are normalised over many pairs before they are added.

    Against training captions (`reads_bank`), or over what is ranked (`transductive`).
    """

    kind: ClassVar[Kind] = "matrix"

    @abstractmethod
    def parts(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """What `combine` makes a score of, for all pairs: (C, T, V)."""

    @abstractmethod
    def combine(self, parts: Tensor, columns: Tensor | None = None, bank: Tensor | None = None) -> Tensor:
        """(C, T, n) -> (T, n).

        columns (T, n): which of the pool's N videos each entry is; None: entry n is video n. bank (C, B, N): the parts
        of B training captions with all videos of the pool, where `reads_bank`; None: no normalisation, as in training.
        """

    def loss(self, texts: Texts, videos: VideoFeatures, rows: slice) -> Tensor:
        """Half the cross-entropy of every text over the batch's videos, and half the other direction's."""
        B = len(texts)
        targets = torch.arange(B, device=texts.vector.device)[rows]
        across = self.combine(self.parts(texts.take(rows), videos))  # (n, B)
        # One worker has the whole matrix already.
        down = across if len(targets) == B else self.combine(self.parts(texts, take_videos(videos, rows)))  # (B, n)
        total = cross_entropy(self.scale * across, targets, reduction="sum")
        total = total + cross_entropy(self.scale * down.T, targets, reduction="sum")
        return 0.5 * total / B


class PairScorer(MatrixScorer):
    """A score that depends on nothing but the text and the video: a matrix of one part, which needs no other pair."""

    kind: ClassVar[Kind] = "pair"

    @abstractmethod
    def score(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """All pairs: (T, V)."""

    def parts(self, texts: Texts, videos: VideoFeatures) -> Tensor:
        """(1, T, V)."""
        return self.score(texts, videos).unsqueeze(0)

    def combine(self, parts: Tensor, columns: Tensor | None = None, bank: Tensor | None = None) -> Tensor:
        """(1, T, n) -> (T, n)."""
        del columns, bank
        return parts[0]


class ListScorer(Scorer):
    """All candidates of a text are scored together. It has no single stage."""

    kind: ClassVar[Kind] = "list"

    @abstractmethod
    def score_lists(self, texts: Texts, videos: VideoFeatures, prior: Tensor) -> Tensor:
        """A list of n candidates a text: videos T * n, list by list; prior (T, n) their stage-1 scores -> (T, n)."""


AnyScorer = MatrixScorer | ListScorer
"""What there is: either kind, for those who ask which."""
