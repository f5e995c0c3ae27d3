"""What a model in training is worth on a split: R@K of every score, and of the two-stage search with its fusion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgvr_core.evaluation.metrics import Positions, Ranks, positions_from_scores, ranks, recall_at
from mgvr_core.model.eercf import EERCF
from mgvr_core.retrieval.coarse import Candidates, search
from mgvr_core.retrieval.fit import NothingToFitError, fit_fusion
from mgvr_core.retrieval.two_stage import positions, reranked
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.fusion import FusionWeights, fuse, score_each
from mgvr_core.scoring.video import project_text

_TEXTS = 256
"""Texts that are scored at once."""
_OF_FRAMES = ("video", "frame_weak", "tib_frame")
"""Scores that cost little, and are measured whether the rerank reads them or not."""

FusionChoice = Literal["fitted", "released"]
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """Every score of all texts of a split against all of its videos."""

    each: dict[str, Matrix]
    """name -> (T, V)."""
    queries: Matrix
    """(T, D) texts as stage 1 searches them."""
    videos: Matrix
    """(V, D) coarse vectors."""
    owner: NDArray[np.int64]
    """(T,) the right video of each text."""


def score_split(
    model: EERCF,
    text: Tensor,
    blocks: Iterable[VideoFeatures],
    owner: NDArray[np.int64],
    mixing: Tensor | None,
    active: FusionWeights,
) -> Scores:
    """The scores of frames and those of patches that have a weight: text (T, D) of unit length, V videos in blocks.

    One block at a time is asked for, so that no more than one is held.
    """
    wanted = active.model_copy(update={name: getattr(active, name) or 1.0 for name in _OF_FRAMES})
    parts: dict[str, list[Matrix]] = {}
    coarse: list[Matrix] = []
    for videos in blocks:
        coarse.append(videos.video.float().cpu().numpy())
        for name, columns in _columns(model, text, videos, mixing, wanted).items():
            parts.setdefault(name, []).append(columns)
    return Scores(
        each={name: np.concatenate(columns, axis=1) for name, columns in parts.items()},
        queries=project_text(text, model.video_projection).float().cpu().numpy(),
        videos=np.concatenate(coarse),
        owner=owner,
    )


def _columns(
    model: EERCF, text: Tensor, videos: VideoFeatures, mixing: Tensor | None, wanted: FusionWeights
) -> dict[str, Matrix]:
    """Scores (T, v) of some videos, some texts at a time: a patch score holds texts x videos x patches numbers."""
    rows = [
        score_each(some, videos, model.video_projection, mixing, wanted)
        for some in text.split(_TEXTS)  # type: ignore[no-untyped-call]
    ]
    return {name: torch.cat([row[name] for row in rows]).float().cpu().numpy() for name in rows[0]}


def fit_weights(scores: Scores, active: FusionWeights, choice: FusionChoice, k: int) -> tuple[FusionWeights, bool]:
    """The weights of the rerank, and whether they were fitted to the candidates of this split or are those given.

    They stay as given where nothing right is among the candidates, as it may be early in a training, and where no score
    tells right from wrong. Raises MgvrError for a score that is not finite.
    """
    if choice == "released":
        return active, False
    candidates = search(scores.queries, scores.videos, k)
    mine = {name: np.take_along_axis(scores.each[name], candidates.index, axis=1) for name in active.active}
    try:
        fit = fit_fusion(mine, candidates.index == scores.owner[:, None])
    except NothingToFitError:
        return active, False
    return (fit.weights, True) if fit.fitted else (active, False)


def ranks_of(scores: Scores, systems: dict[str, FusionWeights], k: int) -> dict[str, Ranks]:
    """One rank a text for every single score over all videos, and for each system's rerank of the k candidates."""
    relevant = [[int(row)] for row in scores.owner]
    found = {name: ranks(positions_from_scores(matrix, relevant)) for name, matrix in scores.each.items()}
    candidates = search(scores.queries, scores.videos, k)
    T, V = len(scores.owner), len(scores.videos)
    texts = np.arange(T)
    for name, weights in systems.items():
        ranking = reranked(candidates, _fused(scores, candidates, weights))
        better, tied = positions(ranking, candidates, scores.queries, scores.videos, texts, scores.owner)
        found[name] = ranks(Positions(texts, better, tied, T, V, np.zeros(T, np.int64)))
    return found


def recalls(found: dict[str, Ranks], k: int = 1) -> dict[str, float]:
    """`R@K_name` of each system, from 0 to 1."""
    return {f"R@{k}_{name}": float(recall_at(each, k).mean()) for name, each in found.items()}


def _fused(scores: Scores, candidates: Candidates, weights: FusionWeights) -> Matrix:
    mine = {
        name: torch.from_numpy(np.take_along_axis(scores.each[name], candidates.index, axis=1))
        for name in weights.active
    }
    return np.asarray(fuse(mine, weights).numpy())
