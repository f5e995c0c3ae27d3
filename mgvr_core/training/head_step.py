"""One step of a scorer's training, and what the scorer is worth: the same for any number of workers.

Every worker has the whole batch and the loss of its share of the rows; `Scorer.loss` makes the shares add up to the
batch's loss, so the gradients are added up, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch import distributed as dist

from mgvr_core.config import Section
from mgvr_core.evaluation.metrics import positions_from_scores, ranks
from mgvr_core.scorers.scorer import AnyScorer, ListScorer, Scorer, Texts, take_videos
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.training.optimiser import OptimiserConfig, rate_factor

_TEXTS = 64
"""Texts that are scored at once."""
_LISTED = 1024
"""Videos of all lists that are scored at once: each text's list is a copy of the pool."""


class HeadOptimiserConfig(Section):
    """Adam, whose rate rises in the warm-up and then falls as half a cosine."""

    lr: float = Field(1e-3, gt=0, description="learning rate")
    warmup: float = Field(0.1, ge=0, le=1, description="share of all steps in which the rate rises from 0")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")


@dataclass(frozen=True)
class Taken:
    """A step, as it is logged."""

    loss: float
    """Of the whole batch."""
    lr: float
    grad_norm: float
    """Before it was scaled down."""


class Descent:
    """Adam on a scorer's weights.

    All gradients and the loss lie in one buffer, which is one message between workers. A weight that no loss has
    reached has a gradient of zero and not none: else a step would depend on which worker's rows reach it.
    """

    def __init__(self, scorer: Scorer, config: HeadOptimiserConfig, steps: int) -> None:
        """For a scorer that is on its device; `steps` are all that there will be."""
        self._scorer, self._config, self._steps = scorer, config, steps
        parameters = list(scorer.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        self._sums = torch.zeros(sum(sizes) + 1, device=parameters[0].device)
        for parameter, part in zip(parameters, self._sums[:-1].split(sizes), strict=True):  # type: ignore[no-untyped-call]
            parameter.grad = part.view_as(parameter)
        self.optimiser = torch.optim.Adam(parameters, lr=config.lr)

    def step(self, step: int, texts: Texts, videos: VideoFeatures, rows: slice) -> Taken:
        """Take step `step` (from 0) with the loss of some rows of a batch; workers' rows together are the batch.

        With a loss or a gradient that is not finite the weights stay as they are.
        """
        lr = self._config.lr * rate_factor(OptimiserConfig(warmup=self._config.warmup), step, self._steps)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self._sums.zero_()
        loss = self._scorer.loss(texts, videos, rows)
        loss.backward()  # type: ignore[no-untyped-call]
        gradient = self._sums[:-1]
        self._sums[-1] = loss.detach()
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self._sums)
        norm = gradient.norm()
        taken = Taken(loss=self._sums[-1].item(), lr=lr, grad_norm=norm.item())
        if np.isfinite([taken.loss, taken.grad_norm]).all():
            gradient *= (self._config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            self.optimiser.step()
        return taken


def pool_ranks(scorer: AnyScorer, texts: Texts, videos: VideoFeatures, owner: NDArray[np.int64]) -> NDArray[np.float64]:
    """The rank (T,) of each text's video, owner (T,), among all V videos; the middle of the ranks that are tied.

    Raises MgvrError for a score that is not a number.
    """
    with torch.inference_mode():
        scores = pool_scores(scorer, texts, videos).float().cpu().numpy()  # (T, V)
    return ranks(positions_from_scores(scores, [[row] for row in owner.tolist()])).mid


def pool_scores(scorer: AnyScorer, texts: Texts, videos: VideoFeatures) -> Tensor:
    """Every text against every video (T, V), whatever kind the scorer is: a list of a text is all of the videos."""
    T, V = len(texts), len(videos)
    if isinstance(scorer, ListScorer):
        rows = max(1, _LISTED // V)
        return torch.cat([_listed(scorer, texts.take(slice(at, at + rows)), videos) for at in range(0, T, rows)])
    parts = [scorer.parts(texts.take(slice(at, at + _TEXTS)), videos) for at in range(0, T, _TEXTS)]
    return scorer.combine(torch.cat(parts, dim=1))  # (C, T, V) -> (T, V)


def _listed(scorer: ListScorer, texts: Texts, videos: VideoFeatures) -> Tensor:
    every = torch.arange(len(videos), device=videos.video.device).repeat(len(texts))  # (T * V,)
    prior = texts.vector @ scorer.setting.projection.to(texts.vector) @ videos.video.T  # (T, V)
    return scorer.score_lists(texts, take_videos(videos, every), prior)
