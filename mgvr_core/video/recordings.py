"""Recordings that follow each other in one stream, each with a clock that starts anew: glued transport streams.

Played, one follows the other. So the times of a later one are shifted until it begins where the one before ends.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

# ffmpeg's own measures of a clock that was set anew (ts_discontinuity_process): set back by less, a frame is only late;
# and only containers made for broadcasting (flag TS_DISCONT) leap ahead, in others so long a gap is meant.
_BACK_S, _AHEAD_S = Fraction(1, 10), 10


class Recordings:
    """The recordings of a stream: at which packets they begin, and what is added to the times of each."""

    def __init__(self, beginnings: Sequence[int], shifts: Sequence[int]) -> None:
        """`beginnings` are numbers of packets, ascending from 0; `shifts` are in ticks."""
        self._beginnings = beginnings
        self._shifts = shifts

    def __len__(self) -> int:
        return len(self._beginnings)

    def shift(self, number: int) -> int:
        """Ticks to be added to the times of the packet that is the `number`th in order of decoding."""
        return self._shifts[bisect_right(self._beginnings, number) - 1]


def find_recordings(
    pts: Sequence[int], dts: Sequence[int | None], ends: Sequence[int], time_base: Fraction, leaps: bool
) -> Recordings:
    """The recordings of a stream by its packets' times in ticks, in order of decoding.

    `ends`: when each packet's frame ends. `leaps`: whether a leap ahead begins a recording too.
    """
    known = [(number, stamp) for number, stamp in enumerate(dts) if stamp is not None]
    anew = [
        number
        for (_, earlier), (number, later) in itertools.pairwise(known)
        if (earlier - later) * time_base > _BACK_S or (leaps and (later - earlier) * time_base > _AHEAD_S)
    ]
    beginnings, shifts = [0, *anew], [0]
    for begin, middle, end in zip(beginnings, anew, [*anew[1:], len(pts)], strict=False):
        shifts.append(shifts[-1] + max(ends[begin:middle]) - min(pts[middle:end]))
    return Recordings(beginnings, shifts)
