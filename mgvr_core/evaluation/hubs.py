"""Hub videos: near to every text, so that they come first for queries that ask for something else.

See Radovanović, Nanopoulos and Ivanović 2010, "Hubs in space"; their count of how often an item is among the k nearest
of others is taken here at k = 1. What can be done about hubs: `hubness`.
"""

from __future__ import annotations

import numpy as np

from mgvr_core.evaluation.metrics import IntArray

SHOWN = 10
_TIMES, _MORE = 2, 3


def hubs(first: IntArray, right: IntArray, n: int = SHOWN) -> tuple[tuple[int, int, int], ...]:
    """Up to n hubs as (video, times first, times right), those that took most places from others at the top.

    first: (Q,) the video that comes first for each query. right: (N,) for how many of the queries each video of the
    pool is a right answer. A hub comes first for more than twice as many queries as it is right for, and for at
    least 3 more.
    """
    times = np.bincount(first, minlength=len(right))  # (N,)
    found = np.flatnonzero((times > _TIMES * right) & (times - right >= _MORE))
    order = np.lexsort((found, right[found] - times[found]))[:n]
    return tuple((int(video), int(times[video]), int(right[video])) for video in found[order])
