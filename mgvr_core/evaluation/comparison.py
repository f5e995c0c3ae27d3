"""Coarse against two-stage, measured: from the positions of both to one `Direction` of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mgvr_core.evaluation.bootstrap import LEVEL, SAMPLES, intervals, paired_gains
from mgvr_core.evaluation.metrics import FloatArray, Measure, Positions, Ranks, per_query, ranks, recall_at, summarise
from mgvr_core.evaluation.report import Curve, Direction, Movement, Ties

_CURVE_POINTS = 50
_BAND_ENDS = (1, 5, 10)


def compare(
    coarse: Positions,
    two_stage: Positions,
    k: int,
    *,
    scores: Mapping[str, Positions] | None = None,
    corrected: Mapping[str, Positions] | None = None,
    certified: bool = False,
    groups: Sequence[object] | None = None,
    level: float = LEVEL,
    samples: int = SAMPLES,
    seed: int = 0,
    note: str = "",
    recalled: FloatArray | None = None,
    searched: int | None = None,
) -> Direction:
    """Measure two rankings of the same queries over the same pool.

    k: candidates that were reranked. scores: positions of the rerank by each single score. corrected: of
    the final list after corrections of hubness, by their labels. certified: see `Direction`. groups: (Q,) the video of
    each query where several queries describe one (see `bootstrap`). All intervals come from the same resamples.
    recalled, searched: where stage 1 searched other items than those ranked (single captions, not groups of them), (Q,)
    whether it found a right one, and among how many items; by default the k best of the pool.
    """
    coarse_rank, final_rank = ranks(coarse), ranks(two_stage)
    single = {f"score/{name}": positions for name, positions in (scores or {}).items()}
    lifted = {f"corrected/{label}": positions for label, positions in (corrected or {}).items()}
    systems = {"coarse": coarse, "two_stage": two_stage, **single, **lifted}
    measures = {name: per_query(positions) for name, positions in systems.items()}
    flat = {f"{name}/{key}": measure for name, of in measures.items() for key, measure in of.items()}
    ceiling = Measure(recall_at(coarse_rank, k) if recalled is None else recalled)
    found = intervals({**flat, "ceiling": ceiling}, level=level, samples=samples, seed=seed, groups=groups)
    figures = {name: {key: found[f"{name}/{key}"] for key in of} for name, of in measures.items()}
    gains = paired_gains(
        measures["two_stage"], measures["coarse"], level=level, samples=samples, seed=seed, groups=groups
    )
    return Direction(
        queries=coarse.num_queries,
        pool=coarse.pool,
        unanswerable=int((~coarse_rank.answerable).sum()),
        k=k,
        searched=coarse.pool if searched is None else searched,
        coarse=figures["coarse"],
        two_stage=figures["two_stage"],
        gain=gains,
        recall_at_k=found["ceiling"],
        curve=_curve(coarse_rank, final_rank, k, coarse.pool),
        movement=_movement(coarse_rank, final_rank, k),
        ties={name: ties for name in ("coarse", "two_stage") if (ties := _ties(systems[name])).queries},
        scores={name: figures[f"score/{name}"] for name in scores or {}},
        corrected={label: figures[f"corrected/{label}"] for label in corrected or {}},
        certified=certified,
        level=level,
        resamples=samples,
        interval_unit="query" if groups is None else "group",
        note=note,
    )


def _curve(coarse: Ranks, two_stage: Ranks, k: int, pool: int) -> Curve:
    """R@K at every K up to the last reranked place (at most 50 points, evenly spaced on a log axis)."""
    last = min(pool, max(k, _CURVE_POINTS))
    points = np.unique(np.geomspace(1, last, _CURVE_POINTS).round().astype(int)).tolist()
    return Curve(
        k=tuple(points),
        coarse=tuple(float(recall_at(coarse, point).mean()) for point in points),
        two_stage=tuple(float(recall_at(two_stage, point).mean()) for point in points),
    )


def _movement(coarse: Ranks, two_stage: Ranks, k: int) -> Movement:
    """Counts of queries by rank band before and after the rerank; half ranks fall into the band below."""
    ends = [*(end for end in _BAND_ENDS if end < k), k]
    starts = [1, *(end + 1 for end in ends[:-1])]
    bands = [str(start) if start == end else f"{start}–{end}" for start, end in zip(starts, ends, strict=True)]
    size = len(ends) + 1

    def band(ranks: Ranks) -> FloatArray:
        return np.where(ranks.answerable, np.searchsorted(ends, ranks.mid), size - 1)

    cells = np.bincount(band(coarse) * size + band(two_stage), minlength=size * size).reshape(size, size)
    return Movement(bands=(*bands, f"> {k}"), counts=tuple(tuple(row) for row in cells.tolist()))


def _ties(positions: Positions) -> Ties:
    metrics = summarise(positions)
    return Ties(metrics.tied_queries, metrics.optimistic, metrics.pessimistic)
