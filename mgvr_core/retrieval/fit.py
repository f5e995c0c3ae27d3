"""Fusion weights fitted to a validation split: those under which the right candidates stand out most.

Nothing here reads the queries that a report is about: fit on validation, report on test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from mgvr_core.errors import MgvrError
from mgvr_core.scoring.fusion import FusionWeights

PENALTY = 1e-7
"""Of half the squared weights. Scores that separate right from wrong without a fault would have their weights grow for
ever. As cosines, all scores have one unit; at weights of 100, the largest scale that CLIP allows itself, this costs
0.0005 nats: too little to move an optimum that is there without it."""
_UNIT = 100.0
"""What weights are measured in while they are sought: near their size, so that the first steps are neither."""
_FLAT = 1e-4
"""Weights of this sum change no softmax: scores are within [-1, 1]."""


class NothingToFitError(MgvrError):
    """No query has a right answer among its candidates."""


@dataclass(frozen=True)
class FusionFit:
    """Weights for the rerank, and how well they fit."""

    weights: FusionWeights
    """All five set. They sum to 1, each rounded to 4 decimals; 0 for a score that was not given or does not help."""
    fitted: bool
    """False: no score tells right candidates from wrong ones; `weights` are the released ones of the scores given."""
    loss: float
    """Mean over the queries used of -log of the softmax's share of the right candidates, at the optimum, in nats."""
    start_loss: float
    """The same for the released weights at their best scale: what is gained by fitting."""
    queries: int
    """Used: those with a right answer among their candidates."""
    skipped: int
    """Not used: a rerank can't find what stage 1 lost."""


def fit_fusion(scores: Mapping[str, NDArray[np.float32]], relevant: NDArray[np.bool_]) -> FusionFit:
    """The weights w >= 0 that minimise the mean over queries of -log sum_right softmax_k(sum_n w_n score_n).

    scores: name (a field of FusionWeights) -> (Q, k) cosines of each query's candidates; relevant (Q, k): which are
    right. The softmax's temperature is free, since w is of any size. With one right candidate a query the problem is
    convex and the optimum is the only one; with several it is the best of those reached from every single score and
    from the released weights. The order of queries and candidates has no influence, to the last bit.

    Raises MgvrError for a score that is not finite, NothingToFitError where no query has a right candidate;
    ValueError for a name that is no score, or arrays of different shapes.
    """
    names = [name for name in FusionWeights.model_fields if name in scores]
    if not names or len(names) < len(scores) or any(scores[name].shape != relevant.shape for name in names):
        raise ValueError(f"scores {sorted(scores)} are not scores of shape {relevant.shape}")
    for name in names:
        bad = ~np.isfinite(scores[name]).all(axis=1)
        if bad.any():
            raise MgvrError(
                f"score {name} of query {int(bad.argmax())} (counted from 0) is NaN or infinite: no weights can be "
                "fitted. Check the features with mgvr corpus verify, and the model that made them"
            )
    used = relevant.any(axis=1)
    if not used.any():
        raise NothingToFitError(
            f"none of {len(relevant)} validation queries has a right video among its {relevant.shape[1]} candidates: "
            "there is nothing to fit the fusion's weights to. Take a larger validation set or more candidates, train "
            "longer, or keep the released weights (fusion: released)"
        )
    stacked, right = _in_order(np.stack([scores[name][used] for name in names]).astype(np.float64), relevant[used])
    released = _released(names)
    start, start_loss = _along(released, stacked, right)
    starts = [start]
    if (right.sum(axis=1) > 1).any():
        starts += [_along(axis, stacked, right)[0] for axis in np.eye(len(names))]
    found = [_minimum(start, stacked, right) for start in starts]
    weights = min(found, key=lambda weights: _penalised(weights, stacked, right)[0])
    fitted = bool(weights.sum() > _FLAT)
    shares = weights / weights.sum() if fitted else released
    chosen = dict.fromkeys(FusionWeights.model_fields, 0.0)
    chosen |= {name: round(float(share), 4) for name, share in zip(names, shares, strict=True)}
    return FusionFit(
        weights=FusionWeights(**chosen),
        fitted=fitted,
        loss=fusion_loss(weights, stacked, right)[0],
        start_loss=start_loss,
        queries=int(used.sum()),
        skipped=int((~used).sum()),
    )


def fusion_loss(
    weights: NDArray[np.float64], scores: NDArray[np.float64], relevant: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64]]:
    """The mean of -log sum_right softmax_k(w score), and its gradient by w: (N,), (N, Q, k), (Q, k) -> scalar, (N,).

    With p the softmax over all candidates and r that over the right ones: dL/dw_n = mean_q sum_k (p - r) score_n.
    Every query must have a right candidate.
    """
    logits = sum(weight * score for weight, score in zip(weights, scores, strict=True))  # (Q, k)
    whole, p = _softmax(logits)
    among, r = _softmax(np.where(relevant, logits, -np.inf))
    Q = len(relevant)
    # By sums of products and not by a matrix product, whose rounding depends on the number of threads.
    return float((whole - among).sum() / Q), np.array([((p - r) * score).sum() / Q for score in scores])


def _softmax(logits: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """log sum exp (Q,) and softmax (Q, k) over the last axis."""
    top = logits.max(axis=1, keepdims=True)
    powers = np.exp(logits - top)
    total = powers.sum(axis=1, keepdims=True)
    return (top + np.log(total))[:, 0], powers / total


def _penalised(
    weights: NDArray[np.float64], scores: NDArray[np.float64], relevant: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64]]:
    loss, gradient = fusion_loss(weights, scores, relevant)
    return loss + PENALTY / 2 * float((weights * weights).sum()), gradient + PENALTY * weights


def _minimum(
    start: NDArray[np.float64], scores: NDArray[np.float64], relevant: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The weights (N,), none below 0, where the penalised loss is least, sought from `start` (N,)."""

    def objective(scaled: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, gradient = _penalised(scaled * _UNIT, scores, relevant)
        return loss, gradient * _UNIT

    found = minimize(
        objective,
        start / _UNIT,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * len(start),
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000},
    )
    return np.maximum(np.asarray(found.x, np.float64), 0) * _UNIT


def _along(
    direction: NDArray[np.float64], scores: NDArray[np.float64], relevant: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], float]:
    """The best multiple (N,) of a direction (N,), and its loss."""
    fused = sum(share * score for share, score in zip(direction, scores, strict=True))
    weights = _minimum(np.array([_UNIT / 10]), np.asarray(fused)[None], relevant) * direction
    return weights, fusion_loss(weights, scores, relevant)[0]


def _released(names: list[str]) -> NDArray[np.float64]:
    """The released weights of some scores, with sum 1; equal ones where none of these has any."""
    weights = np.array([getattr(FusionWeights(), name) for name in names], np.float64)
    return weights / weights.sum() if weights.any() else np.full(len(names), 1 / len(names))


def _in_order(
    scores: NDArray[np.float64], relevant: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Candidates, then queries, sorted by their values: sums come out the same in whatever order they were given."""
    order = np.lexsort((*scores, relevant))[None]  # (1, Q, k), row by row
    scores, relevant = np.take_along_axis(scores, order, axis=2), np.take_along_axis(relevant, order[0], axis=1)
    rows = np.lexsort((*scores.transpose(0, 2, 1).reshape(-1, len(relevant)), *relevant.T))  # (Q,)
    return scores[:, rows], relevant[rows]
