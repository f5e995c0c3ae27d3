"""A proof that two stages found what exhaustive scoring would: upper bounds of what stage 2 has not scored.

Stage 2 scores k candidates a query. Beside every coarse vector lies how far the video's tokens stray from it; from that
follows the most that the video can score. If no video beyond the candidates can reach the r-th best score, then the
first r are those of exhaustive scoring, in its order. Only a query for which some video might has more scored.

Sizes: Q queries, N videos, F frames, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgvr_core.retrieval.coarse import Candidates
from mgvr_core.scoring.fusion import FusionWeights
from mgvr_core.scoring.tib import TINY_NORM

Bounds = Callable[[int, int], Iterable[tuple[NDArray[np.int64], Tensor]]]
"""(begin, end) of some queries -> blocks of videos, each once: which videos (n,), upper bounds (end - begin, n)."""
Score = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""Fused scores (M,) of pairs: query (M,), video (M,)."""

_BOUNDED = {"video", "frame_weak", "tib_frame", "patch_weak", "tib_patch"}
_UNIT = 2.0**-24
"""The relative error of one fp32 operation."""
_BLOCK = 1024
"""Queries whose bounds are looked at together."""


@dataclass(frozen=True)
class Reach:
    """How far the tokens of N videos stray from their coarse vectors.

    Every decoded token of a valid frame is a v^ + u, with v^ the stored coarse vector at unit length and u orthogonal
    to it. A token need not be of unit length: a code changes lengths.
    """

    values: Tensor
    """(N, 3, 3) float32: of frames, temporal frames and patches the least a, the greatest a and the greatest |u|."""
    mask: Tensor
    """(N, F) bool: True where there is a frame, at least one a video."""
    patches: int
    """Patch tokens that a video has at most, 0 without patches: rounding grows with them."""


def upper_bounds(
    text: Tensor, projected: Tensor, video: Tensor, reach: Reach, weights: FusionWeights, mixing: Tensor | None
) -> Tensor:
    """What every pair's fused score can't exceed, (Q, N) float32; infinite where nothing can be promised.

    text (Q, D) as it meets the tokens, so of int8 tokens the rounded text, which has not quite unit length; projected
    t^ W (Q, D); video (N, D) as stored; mixing U (F, F) or None for the identity. All of it float32, on one device.

    With T = |t|, s = <t, v^> and c = sqrt(T^2 - s^2), a token's similarity <t, a v^ + u> lies within c |u| of a s. So
    every convex combination of tokens (frame_weak without U, patch_weak) is at most max(a_min s, a_max s) + c u_max,
    whatever the softmax's weights. U mixes them: frame_weak is a convex combination, over valid i, of
    sum_j U_ij <t, f_j> over valid j, where U_ij > 0 meets the upper end of the interval and U_ij < 0 the lower one. A
    TIB vector is a conic combination: where a_min > 0 it is at most rho = atan2(u_max, a_min) away from v^, and its
    score at most T cos(max(0, angle(t, v^) - rho)). `video` is computed as it is.

    Every term is then lifted by a bound of its rounding in fp32, here and in the scores: a sum of n products errs by at
    most n 2^-24 times the product of the lengths (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
    TIB divides by a length that is at least a_min, which magnifies its error: where a_min is so small that the quotient
    may be rounding alone, the bound is infinite. A pair scored with reduced precision (TF32, bf16) is not covered.
    """
    if unknown := set(weights.active) - _BOUNDED:
        raise ValueError(f"there is no bound for {', '.join(sorted(unknown))}, so nothing can be certified")
    D, F = text.shape[1], reach.mask.shape[1]
    total = text.new_zeros(len(text), len(video))
    if weights.video:
        lengths = projected.norm(dim=1).unsqueeze(1) * video.norm(dim=1)  # (Q, N)
        total += weights.video * (projected @ video.T + _rounding(D, 0) * lengths)
    field = _Field.of(text, video)
    frames, temporal, patches = (_Tokens(*values.unbind(1)) for values in reach.values.unbind(1))
    if weights.frame_weak:
        total += weights.frame_weak * field.mixed(frames, reach.mask, mixing, _rounding(D, F))
    if weights.tib_frame:
        total += weights.tib_frame * field.gated(temporal, _rounding(D, F))
    if weights.patch_weak:
        _, high = field.interval(patches)
        total += weights.patch_weak * (high + _rounding(D, reach.patches) * field.length * patches.size)
    if weights.tib_patch:
        total += weights.tib_patch * field.gated(patches, _rounding(D, reach.patches))
    return total.nan_to_num(nan=float("inf"), posinf=float("inf"))


def _rounding(dim: int, tokens: int) -> float:
    """Relative error of a score over so many tokens: similarities, softmax, sums, fusion, and the bound itself."""
    return 4 * (dim + tokens + 16) * _UNIT


@dataclass(frozen=True)
class _Tokens:
    """The reach of one granularity, (N,) each."""

    least: Tensor
    most: Tensor
    aside: Tensor

    @property
    def size(self) -> Tensor:
        """What no token is longer than."""
        return torch.hypot(torch.maximum(self.least.abs(), self.most.abs()), self.aside)


@dataclass(frozen=True)
class _Field:
    """How texts lie to coarse vectors."""

    length: Tensor
    """T (Q, 1), longer than it is by more than what s may be wrong by: so c is not less than it is."""
    along: Tensor
    """s (Q, N), as it was rounded."""
    across: Tensor
    """c (Q, N)."""

    @classmethod
    def of(cls, text: Tensor, video: Tensor) -> _Field:
        length = text.norm(dim=1, keepdim=True) * (1 + _rounding(text.shape[1], 0))
        along = text @ (video / video.norm(dim=1, keepdim=True)).T
        # As a product, which loses no digits where the text lies along the coarse vector.
        across = ((length - along.abs()) * (length + along.abs())).sqrt()
        return cls(length, along, across)

    def interval(self, tokens: _Tokens) -> tuple[Tensor, Tensor]:
        """Where the similarities with a video's tokens lie: the lower and the upper end, (Q, N) each."""
        one, other, aside = tokens.least * self.along, tokens.most * self.along, tokens.aside * self.across
        return torch.minimum(one, other) - aside, torch.maximum(one, other) + aside

    def mixed(self, tokens: _Tokens, mask: Tensor, mixing: Tensor | None, rounding: float) -> Tensor:
        """The bound of frame_weak, (Q, N)."""
        low, high = self.interval(tokens)
        slack = rounding * self.length * tokens.size
        if mixing is None:
            return high + slack
        valid = mask.to(high.dtype)
        positive, negative = valid @ mixing.clamp_min(0.0).T, valid @ (-mixing).clamp_min(0.0).T  # (N, F): rows of U
        most = torch.full_like(high, float("-inf"))
        for i in range(mask.shape[1]):
            row = positive[:, i] * high - negative[:, i] * low  # (Q, N)
            most = torch.maximum(most, row.masked_fill(~mask[:, i], float("-inf")))
        return most + slack * (valid * (positive + negative)).amax(dim=1)

    def gated(self, tokens: _Tokens, rounding: float) -> Tensor:
        """The bound of a TIB score, (Q, N)."""
        rim = torch.hypot(tokens.least, tokens.aside)  # (N,): cos rho = least / rim, sin rho = aside / rim
        turned = (self.along * tokens.least + self.across * tokens.aside) / rim  # T cos(angle - rho)
        outside = self.along < self.length * (tokens.least / rim)  # not within rho of v^
        # The length's square errs relative to the longest token's, the length itself is at least a_min.
        magnified = rounding * (tokens.size / tokens.least) ** 2
        bound = torch.where(outside, turned, self.length) + 3 * self.length * magnified
        return bound.masked_fill(~((tokens.least > 2 * TINY_NORM) & (magnified < 0.25)), float("inf"))


@dataclass(frozen=True)
class Certified:
    """All videos scored of Q queries, each query's by their scores, best first; equal scores by the video's index."""

    index: NDArray[np.int64]
    """(M,) videos: those of query q from offsets[q] to offsets[q + 1]."""
    score: NDArray[np.float32]
    """(M,) fused scores."""
    offsets: NDArray[np.int64]
    """(Q + 1,)."""
    certified: NDArray[np.bool_]
    """(Q,): whether the first r are those of scoring every video. If not, the limit was in the way."""

    @property
    def k(self) -> NDArray[np.int64]:
        """How many videos of every query were scored, (Q,)."""
        return np.diff(self.offsets)

    def best(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Every query's n best, of at least n that are scored: index and score, (Q, n) each."""
        at = self.offsets[:-1, None] + np.arange(n)  # (Q, n)
        return self.index[at], self.score[at]


def certify(r: int, first: Candidates, fused: NDArray[np.float32], promising: Promising, score: Score) -> Certified:
    """Score more of each query until its first r are certain, or all that are promising are scored.

    first (Q, k) are stage 1's candidates and fused (Q, k) their fused scores; r at least 1; `promising` is what
    `find_promising` makes of all videos with the threshold of these scores. A video must be scored when its bound is at
    least the r-th best score so far: one that equals it may come before it by its index. The rest are scored by
    descending bound, as many as have been at a time, since the r-th best score rises meanwhile.

    The order is that of the scores that `score` gives.
    """
    Q, k = first.index.shape
    scored = [Pairs(np.repeat(np.arange(Q), k), first.index.reshape(-1), fused.reshape(-1))]
    best, _ = scored[0].best(r)
    threshold = _last_of(best, r, Q)
    waiting, beyond = promising.pairs, promising.beyond
    number = np.full(Q, k)
    # The threshold only rises: a video that falls below it never has to be scored.
    while len(waiting := waiting.where(waiting.value >= threshold[waiting.query])):
        now = waiting.places() < number[waiting.query]
        new = waiting.where(now)
        new = Pairs(new.query, new.video, score(new.query, new.video))
        scored.append(new)
        waiting = waiting.where(~now)
        number += np.bincount(new.query, minlength=Q)
        best, _ = _joined([best, new]).best(r)
        threshold = _last_of(best, r, Q)
    found = _joined(scored).ordered()
    certified = (beyond < threshold) | np.isneginf(beyond)
    return Certified(found.video, found.value, np.concatenate([[0], np.cumsum(number)]), certified)


@dataclass(frozen=True)
class Pairs:
    """Pairs with a score or a bound, (M,) each."""

    query: NDArray[np.int64]
    video: NDArray[np.int64]
    value: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.query)

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Pairs:
        return Pairs(self.query[chosen], self.video[chosen], self.value[chosen])

    def ordered(self) -> Pairs:
        """Query by query, the greatest value first, equal ones by the video's index."""
        return self.where(np.lexsort((self.video, -self.value, self.query)))

    def places(self) -> NDArray[np.int64]:
        """The place of each among its query's, from 0, where they are ordered."""
        begins = np.searchsorted(self.query, self.query)
        return np.arange(len(self)) - begins

    def best(self, n: int) -> tuple[Pairs, Pairs]:
        """Every query's n best, ordered, and the best of those that each leaves out."""
        ordered = self.ordered()
        places = ordered.places()
        return ordered.where(places < n), ordered.where(places == n)


def _joined(parts: list[Pairs]) -> Pairs:
    return Pairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("query", "video", "value")))


def _last_of(best: Pairs, n: int, Q: int) -> NDArray[np.float32]:
    """The n-th best value of every query, (Q,); -inf where there are fewer."""
    last = np.full(Q, -np.inf, np.float32)
    at = best.places() == n - 1
    last[best.query[at]] = best.value[at]
    return last


@dataclass(frozen=True)
class Promising:
    """Videos that may be among the best r of Q queries, and have not been scored."""

    pairs: Pairs
    """With their bounds, query by query, the highest bound first."""
    beyond: NDArray[np.float32]
    """(Q,) the highest bound among the videos that are neither here nor scored; -inf where there are none."""


def rth_best(r: int, fused: NDArray[np.float32]) -> NDArray[np.float32]:
    """The r-th best of every query's scores (Q, k), (Q,); -inf where it has fewer."""
    if fused.shape[1] < r:
        return np.full(len(fused), -np.inf, np.float32)
    lowest: NDArray[np.float32] = -np.partition(-fused, r - 1, axis=1)[:, r - 1]
    return lowest


def find_promising(known: NDArray[np.int64], threshold: NDArray[np.float32], bounds: Bounds, room: int) -> Promising:
    """The videos but for the known (Q, k) whose bound reaches the threshold (Q,), a query's `room` best at most.

    The bounds are asked for once, some queries at a time. Of every query only those are held that have a chance. Videos
    may be looked through in parts, by several processes, and what they find put together by `together`.
    """
    Q = len(threshold)
    beyond = np.full(Q, -np.inf, np.float32)
    kept = []
    for begin in range(0, Q, _BLOCK):
        end = min(begin + _BLOCK, Q)
        pool = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        floor = threshold[begin:end].copy()
        for videos, block in bounds(begin, end):
            new, rest = _picked(block, _columns(videos, known[begin:end]), floor, room)
            pool, dropped = _joined([pool, Pairs(new.query + begin, videos[new.video], new.value)]).best(room)
            np.maximum(beyond[begin:end], rest, out=beyond[begin:end])
            beyond[dropped.query] = np.maximum(beyond[dropped.query], dropped.value)
            # A query with no room left takes only what is better than its last.
            full = _last_of(pool, room, Q)[begin:end] if room else np.full(end - begin, np.inf, np.float32)
            np.maximum(floor, full, out=floor)
        kept.append(pool)
    return Promising(_joined(kept), beyond)


def together(parts: Sequence[Promising], room: int) -> Promising:
    """What several parts of the videos hold, a query's `room` best at most."""
    pairs, dropped = _joined([part.pairs for part in parts]).best(room)
    beyond = np.max([part.beyond for part in parts], axis=0)
    beyond[dropped.query] = np.maximum(beyond[dropped.query], dropped.value)
    return Promising(pairs, beyond)


def _columns(videos: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where some of the videos (n,) stand among them: known (B, k) -> (B, k), -1 for one that is not there."""
    order = np.argsort(videos)
    at = np.minimum(np.searchsorted(videos[order], known), len(videos) - 1)
    columns = order[at]
    return np.where(videos[columns] == known, columns, -1)


def _picked(
    block: Tensor, known: NDArray[np.int64], floor: NDArray[np.float32], room: int
) -> tuple[Pairs, NDArray[np.float32]]:
    """Of bounds (B, n) each row's best that reach its floor, but not the known columns (B, k); and the rest's highest.

    A known column of -1 is of another block.
    """
    device = block.device
    columns = torch.from_numpy(known).to(device)
    inside = columns >= 0
    block = block.clone()
    block[inside.nonzero()[:, 0], columns[inside]] = float("-inf")
    keep = (block >= torch.from_numpy(floor).to(device).unsqueeze(1)) & (block > float("-inf"))
    crowded = (keep.sum(dim=1) > room).nonzero()[:, 0]
    if len(crowded):
        # At most `room` a row leave this function, however many reach the floor.
        best = block[crowded].topk(room, dim=1).indices
        keep[crowded] = torch.zeros_like(keep[crowded]).scatter_(1, best, True)
    rest = block.masked_fill(keep, float("-inf")).amax(dim=1)
    query, video = keep.nonzero(as_tuple=True)
    return Pairs(query.cpu().numpy(), video.cpu().numpy(), block[keep].cpu().numpy()), rest.cpu().numpy()
