"""Texts with their words, videos, and what a model has learned: all drawn, all with padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from drawn import near_features
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.scorers.scorer import Scorer, Setting, Sizes, Texts, take_videos
from mgvr_core.scoring.features import VideoFeatures

Pairs = Callable[..., tuple[Texts, VideoFeatures]]
Settings = Callable[..., Setting]
Parts = Callable[[Scorer, Texts, VideoFeatures, Tensor], Tensor]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """For all tests of this room."""


@pytest.fixture(scope="session")
def sizes() -> Sizes:
    return Sizes(frames=4, patches=4, dim=16, words=5)


@pytest.fixture(scope="session")
def pairs(sizes: Sizes) -> Pairs:
    """T texts and V videos, text i about video i mod V; the first of each has no padding, others may have much."""

    def build(seed: int, T: int = 5, V: int = 7, sizes: Sizes = sizes) -> tuple[Texts, VideoFeatures]:
        F, P, D, L = sizes.frames, sizes.patches, sizes.dim, sizes.words
        generator = torch.Generator().manual_seed(seed)

        def there(rows: int, places: int) -> Tensor:
            lengths = torch.randint(1, places + 1, (rows, 1), generator=generator)
            lengths[0] = places
            return torch.arange(places) < lengths  # (rows, places)

        # One frame more than asked for: the last one is padding in some videos, whatever we say.
        drawn = near_features(seed, V, (F + 1, P, D), 0.5, (1.0, 0.7, 0.5, 0.7))
        mask = there(V, F)
        frames, temporal = (drawn[name][:, :F] * mask[..., None] for name in ("frames", "temporal"))
        patches = drawn["patches"][:, :F] * mask[..., None, None]
        about = drawn["video"][torch.arange(T) % V]  # (T, D)
        vector = normalize(about + 0.7 * torch.randn(T, D, generator=generator) / D**0.5, dim=-1)
        words = normalize(vector[:, None] + torch.randn(T, L, D, generator=generator) / D**0.5, dim=-1)
        word_mask = there(T, L)
        texts = Texts(vector, words * word_mask[..., None], word_mask)
        return texts, VideoFeatures(drawn["video"], frames, temporal, patches, mask)

    return build


@pytest.fixture(scope="session")
def setting(sizes: Sizes) -> Settings:
    """A model's W and U, off the identity, for sizes."""

    def build(seed: int = 0, sizes: Sizes = sizes) -> Setting:
        generator = torch.Generator().manual_seed(seed)

        def off_identity(size: int) -> Tensor:
            return torch.eye(size) + 0.3 * torch.randn(size, size, generator=generator)

        return Setting(sizes, off_identity(sizes.dim), off_identity(sizes.frames), seed=seed)

    return build


@pytest.fixture(scope="session")
def parts() -> Parts:
    """All that a scorer says of every text with every video, (C, T, V), of whatever kind it is.

    A list is all videos for every text, with the priors (T, V).
    """

    @torch.no_grad()
    def of(scorer: Scorer, texts: Texts, videos: VideoFeatures, prior: Tensor) -> Tensor:
        if scorer.kind != "list":
            return scorer.parts(texts, videos)
        every = torch.arange(len(videos)).repeat(len(texts))  # (T * V,)
        return scorer.score_lists(texts, take_videos(videos, every), prior).unsqueeze(0)

    return of
