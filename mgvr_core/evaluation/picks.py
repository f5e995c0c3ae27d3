"""Which queries the report shows: drawn at random within each kind, never the prettiest; and the worst of all."""

from __future__ import annotations

import numpy as np

from mgvr_core.evaluation.metrics import Ranks
from mgvr_core.evaluation.report import ExampleKind

_KINDS: tuple[ExampleKind, ...] = ("win", "loss", "both_right", "missed")


def pick_examples(
    coarse: Ranks, two_stage: Ranks, k: int, each: int = 3, seed: int = 0
) -> list[tuple[int, ExampleKind]]:
    """Up to `each` queries of each kind, as (query index, kind), kinds in this order:

    win: the right answer came first only after the rerank; loss: only before it; both_right: before and after;
    missed: it is in the pool, but not among the k candidates, so that no rerank could find it; worst: not drawn, but
    those whose right answer stands lowest after the rerank, the lowest first.
    """
    was_first, is_first = coarse.mid <= 1, two_stage.mid <= 1
    members = (~was_first & is_first, was_first & ~is_first, was_first & is_first, coarse.answerable & (coarse.mid > k))
    generator = np.random.default_rng(seed)
    picked: list[tuple[int, ExampleKind]] = []
    for kind, member in zip(_KINDS, members, strict=True):
        found = np.flatnonzero(member)
        drawn = generator.choice(found, size=min(each, found.size), replace=False)
        picked.extend((int(query), kind) for query in sorted(drawn.tolist()))
    behind = np.flatnonzero(coarse.answerable & ~is_first)
    lowest = behind[np.argsort(-two_stage.mid[behind], kind="stable")][:each]
    return [*picked, *((int(query), "worst") for query in lowest)]
