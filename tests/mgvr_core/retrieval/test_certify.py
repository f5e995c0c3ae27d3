"""The certificate: what it calls certain is what scoring every video gives, and it asks for little where it can."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
import torch
from drawn import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.features.tokens import Int8Tokens, quantise
from mgvr_core.retrieval import certify as module
from mgvr_core.retrieval.certify import (
    Bounds,
    Certified,
    Reach,
    Score,
    certify,
    find_promising,
    rth_best,
    together,
    upper_bounds,
)
from mgvr_core.retrieval.coarse import Candidates, search
from mgvr_core.retrieval.fine import FineShard
from mgvr_core.retrieval.rerank import Reranker, score_pairs
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.fusion import FusionWeights, fuse, score_each

NAMES = list(FusionWeights.model_fields)
KINDS = ["apart", "near", "along", "opposed", "nearly opposed"]


def tokens_of(random: np.random.Generator, kind: str, video: Tensor, N: int) -> Tensor:
    """(V, N, D) tokens of lengths about 1, anywhere or close to their coarse vectors or cancelling one another."""
    V, D = video.shape
    other = normalize(normal(random, V, N, D), dim=-1)
    if kind in ("near", "along"):
        other = video.unsqueeze(1) + (0.1 if kind == "near" else 0.0) * other
    elif kind != "apart":
        other[:, 1::2] = -other[:, : N // 2 * 2 : 2]
        if kind == "nearly opposed":
            other = other + 1e-4 * video.unsqueeze(1)
    return other * torch.from_numpy(random.uniform(0.7, 1.3, (V, N, 1)).astype(np.float32))


def videos_of(
    random: np.random.Generator, kind: str, V: int, F: int, P: int, D: int, twins: bool = False
) -> VideoFeatures:
    """V videos with padded frames anywhere; with twins each may be there several times."""
    mask = torch.from_numpy(random.random((V, F)) < 0.7)
    mask[torch.arange(V), torch.from_numpy(random.integers(0, F, V))] = True
    video = normalize(normal(random, V, D), dim=-1)
    frames, temporal = (tokens_of(random, kind, video, F) * mask.unsqueeze(-1) for _ in range(2))
    patches = tokens_of(random, kind, video, F * P).reshape(V, F, P, D) * mask[..., None, None]
    made = VideoFeatures(video.half().float(), frames, temporal, patches, mask)
    if not twins:
        return made
    rows = torch.from_numpy(random.integers(0, V, V))
    return VideoFeatures(*(getattr(made, name)[rows] for name in made.__dataclass_fields__))


def reach_of(videos: VideoFeatures) -> Reach:
    """By its definition, in fp64, rounded outward."""
    unit = normalize(videos.video.double(), dim=-1)
    rows = torch.empty(len(videos), 3, 3)
    for v in range(len(videos)):
        assert videos.patches is not None
        valid = videos.mask[v]
        for part, tokens in enumerate((videos.frames, videos.temporal, videos.patches)):
            mine = tokens[v, valid].reshape(-1, unit.shape[1]).double()
            a = mine @ unit[v]
            aside = (mine - a[:, None] * unit[v]).norm(dim=1).max()
            rows[v, part] = torch.stack([a.min() - 1e-7, a.max() + 1e-7, aside + 1e-7])
    assert videos.patches is not None
    return Reach(rows, videos.mask, videos.patches.shape[1] * videos.patches.shape[2])


def weights_of(random: np.random.Generator) -> FusionWeights:
    """Random weights, some of them 0 but not all."""
    values = random.uniform(0.1, 1, len(NAMES)) * (random.random(len(NAMES)) < 0.6)
    values[random.integers(len(NAMES))] = 0.5
    return FusionWeights(**dict(zip(NAMES, values.tolist(), strict=True)))


def alone(name: str) -> FusionWeights:
    return FusionWeights(**{other: float(other == name) for other in NAMES})


@st.composite
def problems(draw: st.DrawFn, most: int = 12) -> tuple[Tensor, VideoFeatures, Tensor, Tensor | None, FusionWeights]:
    """Texts, videos, W, U and weights."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    V, F, P, D = draw(st.integers(1, most)), draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(2, 8))
    videos = videos_of(random, draw(st.sampled_from(KINDS)), V, F, P, D, twins=draw(st.booleans()))
    text = normalize(normal(random, 4, D), dim=-1)
    text[0] = normalize(videos.video[0], dim=0)  # the angle is 0, or what rounding leaves of it
    text[1] = -normalize(videos.video[-1], dim=0)
    projection = torch.eye(D) if draw(st.booleans()) else 3 * normal(random, D, D)
    mixing = draw(st.sampled_from([None, normal(random, F, F), torch.eye(F) + 0.05 * normal(random, F, F)]))
    return text, videos, projection, mixing, weights_of(random)


@settings(deadline=None, max_examples=200)
@given(problem=problems())
def test_no_score_exceeds_its_bound(problem: tuple) -> None:
    text, videos, projection, mixing, weights = problem
    scores = score_each(text, videos, projection, mixing, weights)
    fused = fuse(scores, weights)
    reach = reach_of(videos)
    assert (upper_bounds(text, text @ projection, videos.video, reach, weights, mixing) >= fused).all()
    for name in weights.active:  # so that one loose bound can't hide that another is too low
        bound = upper_bounds(text, text @ projection, videos.video, reach, alone(name), mixing)
        assert (bound >= scores[name]).all(), name


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["apart", "near"]), D=st.sampled_from([2, 8, 32]))
def test_the_bound_holds_for_int8_tokens_with_the_rounded_text(seed: int, kind: str, D: int) -> None:
    """Stage 2 rounds the texts that meet them, so that their length is not quite 1."""
    random = np.random.default_rng(seed)
    V, F, P = 6, 2, 2
    videos = videos_of(random, kind, V, F, P, D)
    assert videos.patches is not None
    coded = [Int8Tokens(*quantise(t.reshape(V, -1, D))) for t in (videos.frames, videos.temporal, videos.patches)]
    frames, temporal, patches = (tokens.vectors(torch.arange(V)) for tokens in coded)
    decoded = VideoFeatures(videos.video, frames, temporal, patches.reshape(V, F, P, D), videos.mask)
    shard = FineShard(videos.video, *coded, videos.mask, videos.mask.repeat_interleave(P, dim=1), None, None)
    ranker = Reranker(FusionWeights(tib_patch=0.3), torch.eye(D), None)
    texts = ranker.texts(normalize(normal(random, 3, D), dim=-1))
    query, video = (part.reshape(-1) for part in np.mgrid[:3, :V])
    codes, scale = texts.int8
    bound = upper_bounds(
        codes * scale.unsqueeze(1), texts.projected, videos.video, reach_of(decoded), ranker.weights, None
    )
    fused = score_pairs(ranker, texts, shard, query, video)["fused"].reshape(3, V)
    assert (bound.numpy() >= fused).all()


def test_the_bound_of_tokens_along_the_coarse_vector_is_the_score() -> None:
    """Nothing is left open there but rounding, and a padded frame has no part in it."""
    random = np.random.default_rng(0)
    videos = videos_of(random, "near", 20, 3, 2, 8)
    videos = replace(videos, mask=torch.tensor([True, False, True]).repeat(20, 1))
    still = videos.video.unsqueeze(1).expand(20, 3, 8) * videos.mask.unsqueeze(-1)
    videos = replace(videos, frames=still, temporal=still, patches=still.unsqueeze(2).repeat(1, 1, 2, 1))
    text, weights = normalize(normal(random, 9, 8), dim=-1), FusionWeights(tib_patch=0.2)
    mixing = torch.tensor([[0.3, 9.0, 0.5], [9.0, 9.0, 9.0], [-0.1, 9.0, 0.9]])  # 9: of the padded frame
    fused = fuse(score_each(text, videos, torch.eye(8), mixing, weights), weights)
    bound = upper_bounds(text, text, videos.video, reach_of(videos), weights, mixing)
    assert (bound - fused).max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_scores_summed_in_another_order_stay_below_the_bound(name: str) -> None:
    """Where nothing but rounding tells a score from its bound."""
    random = np.random.default_rng(0)
    V, D = 40, 256
    video = normalize(normal(random, V, D), dim=-1).half().float()
    tokens, lengths = video.unsqueeze(1), video.double().norm(dim=1)
    text = normalize(torch.cat([normal(random, 40, D), video]), dim=-1)
    mask = torch.ones(V, 1, dtype=torch.bool)
    along = torch.nextafter(lengths.float(), torch.tensor(2.0))
    reach = Reach(torch.stack([along, along, torch.zeros(V)], dim=1).unsqueeze(1).repeat(1, 3, 1), mask, 1)
    for mixing in (None, torch.ones(1, 1)):
        bound = upper_bounds(text, text, video, reach, alone(name), mixing)
        for _ in range(5):
            order = torch.from_numpy(random.permutation(D))
            part = tokens[..., order]
            videos = VideoFeatures(video[:, order], part, part, part.unsqueeze(2), mask)
            scores = score_each(text[:, order], videos, torch.eye(D), mixing, alone(name))
            assert (bound >= scores[name]).all()
            assert (bound <= scores[name] + 1e-3).all()


@pytest.mark.parametrize("apart", [1e-4, 2e-4, 3e-4, 5e-4, 1e-3])
def test_a_text_a_hair_away_from_the_coarse_vector_is_not_taken_for_it(apart: float) -> None:
    """The cosine of that angle is 1 in fp32, its sine is not 0, and tokens may lie far out on that side."""
    video = torch.tensor([[1.0, 0.0]])
    text = torch.tensor([[1.0, apart]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    token = torch.tensor([[[1.0, 20.0]]])
    videos = VideoFeatures(video, token, token, token.unsqueeze(2), mask)
    reach = Reach(torch.tensor([1.0, 1.0, 20.0]).expand(1, 3, 3), mask, 1)
    score = score_each(text, videos, torch.eye(2), None, alone("frame_weak"))["frame_weak"]
    assert upper_bounds(text, text, video, reach, alone("frame_weak"), None) >= score


@pytest.mark.parametrize("share", [0.3, 0.1, 0.03, 0.02])
def test_the_rounding_of_tokens_that_nearly_cancel_is_in_the_bound(share: float) -> None:
    """Their gated vector is the text, but as short as its share of the tokens: the score is 1, and rounding."""
    random = np.random.default_rng(0)
    V, D = 300, 8
    text = normalize(normal(random, 1, D), dim=-1)
    aside = normal(random, V, D)
    aside = normalize(aside - (aside @ text.T) * text, dim=-1)
    temporal = torch.stack([share * text + aside, share * text - aside], dim=1)
    video = text.repeat(V, 1)
    frames = video.unsqueeze(1).repeat(1, 2, 1)
    videos = VideoFeatures(video, frames, temporal, frames.unsqueeze(2), torch.ones(V, 2, dtype=torch.bool))
    score = score_each(text, videos, torch.eye(D), None, alone("tib_frame"))["tib_frame"]
    bound = upper_bounds(text, text, video, reach_of(videos), alone("tib_frame"), None)
    assert (bound >= score).all()
    assert bound.isfinite().all()


def test_nothing_is_promised_of_what_is_not_known() -> None:
    """A TIB vector whose parts may cancel is divided by a length that is rounding; and some videos have no reach."""
    random = np.random.default_rng(0)
    videos, text = videos_of(random, "apart", 5, 4, 1, 8), normalize(normal(random, 2, 8), dim=-1)
    reach = reach_of(videos)
    for least in (-0.5, 0.0, 1e-7, 1e-4):
        reach.values[:, 1] = torch.tensor([least, 0.9, 0.9])
        assert (upper_bounds(text, text, videos.video, reach, alone("tib_frame"), None) == float("inf")).all()
    unknown = replace(reach, values=torch.full_like(reach.values, float("nan")))
    assert (upper_bounds(text, text, videos.video, unknown, FusionWeights(), None) == float("inf")).all()
    assert upper_bounds(text, text, videos.video, unknown, alone("video"), None).isfinite().all()


def in_blocks(bound: Tensor, cuts: list[int]) -> Bounds:
    """Bounds (Q, N), handed out between the cuts, the videos of a block in any order; each only once."""
    asked: set[tuple[int, int]] = set()

    def blocks(begin: int, end: int) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        for a, b in pairwise(cuts):
            assert not asked.intersection((q, a) for q in range(begin, end))
            asked.update((q, a) for q in range(begin, end))
            videos = np.random.default_rng(a).permutation(np.arange(a, b))
            yield videos, bound[begin:end, videos]

    return blocks


def from_table(fused: NDArray[np.float32]) -> Score:
    """Looks scores (Q, N) up, each pair only once."""
    asked = np.zeros(fused.shape, bool)

    def score(query: NDArray[np.int64], video: NDArray[np.int64]) -> NDArray[np.float32]:
        assert not asked[query, video].any()
        asked[query, video] = True
        return fused[query, video]

    return score


def certified(
    r: int, first: Candidates, fused: NDArray[np.float32], bound: Tensor, limit: int, cuts: list[int] | None = None
) -> Certified:
    Q, N = fused.shape
    given_scores = np.take_along_axis(fused, first.index, axis=1)
    before = bound.clone()
    cuts = cuts or [0, N]
    half = len(cuts) // 2  # the videos lie in two places
    parts = [part for part in (cuts[: half + 1], cuts[half:]) if len(part) > 1]
    room = max(0, limit - first.index.shape[1])
    floor = rth_best(r, given_scores)
    promising = together([find_promising(first.index, floor, in_blocks(bound, part), room) for part in parts], room)
    found = certify(r, first, given_scores, promising, from_table(fused))
    assert torch.equal(bound, before)
    assert found.offsets[0] == 0
    assert found.offsets[-1] == len(found.index) == len(found.score)
    for query in range(Q):
        index, score = of(found, query)
        assert set(first.index[query]) <= set(index)
        assert len(set(index)) == len(index) == found.k[query] <= max(limit, first.index.shape[1])
        assert np.array_equal(score, fused[query, index])
        assert np.array_equal(index, index[np.lexsort((index, -score))])
    return found


def of(found: Certified, query: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """A query's videos and their scores."""
    mine = slice(found.offsets[query], found.offsets[query + 1])
    return found.index[mine], found.score[mine]


def exhaustive(fused: NDArray[np.float32], r: int) -> NDArray[np.int64]:
    return np.argsort(-fused, axis=1, kind="stable")[:, :r]


@settings(deadline=None, max_examples=100)
@given(problem=problems(most=40), r=st.integers(1, 6), k=st.integers(1, 8), limit=st.integers(1, 40))
def test_the_first_r_of_a_certified_query_are_those_of_scoring_everything(
    problem: tuple, r: int, k: int, limit: int
) -> None:
    text, videos, projection, mixing, weights = problem
    fused = fuse(score_each(text, videos, projection, mixing, weights), weights).numpy()
    projected = text @ projection
    first = search(projected.numpy(), videos.video.numpy(), k)
    bound = upper_bounds(text, projected, videos.video, reach_of(videos), weights, mixing)
    truth = exhaustive(fused, r)
    for most in (limit, len(videos)):
        found = certified(r, first, fused, bound, most)
        for query in np.flatnonzero(found.certified):
            assert np.array_equal(of(found, query)[0][:r], truth[query])
    assert found.certified.all()


def one_by_one(r: int, first: NDArray[np.int64], fused: NDArray[np.float32], bound: NDArray[np.float32]) -> int:
    """How many videos have to be scored if the one of the highest bound always comes next."""
    scored = fused[first].tolist()
    rest = np.setdiff1d(np.arange(len(fused)), first)
    for video in rest[np.argsort(-bound[rest], kind="stable")]:
        if len(scored) >= r and bound[video] < sorted(scored)[-r]:
            break
        scored.append(fused[video])
    return len(scored)


@settings(deadline=None, max_examples=200)
@given(
    Q=st.integers(1, 7), N=st.integers(1, 40), k=st.integers(1, 6), r=st.integers(1, 8), limit=st.integers(1, 45),
    loose=st.integers(0, 6), levels=st.integers(1, 12), width=st.integers(1, 7), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_a_query_is_certified_unless_the_limit_is_in_the_way(
    Q: int, N: int, k: int, r: int, limit: int, loose: int, levels: int, width: int, seed: int
) -> None:
    """With scores and bounds that are often equal, and blocks of a few queries and a few videos."""
    random = np.random.default_rng(seed)
    fused = random.integers(0, levels, (Q, N)).astype(np.float32)
    bound = fused + random.integers(0, loose + 1, (Q, N)).astype(np.float32)
    bound[random.random((Q, N)) < 0.02] = np.inf
    k = min(k, N)
    index = np.argsort(random.random((Q, N)), axis=1)[:, :k].astype(np.int64)
    first = Candidates(index, np.zeros((Q, k), np.float32))
    cuts = [0, *sorted(random.choice(np.arange(1, N), random.integers(0, N), replace=False).tolist()), N]
    with patch.object(module, "_BLOCK", width):
        found = certified(r, first, fused, torch.from_numpy(bound), limit, cuts)
    for query, truth in enumerate(exhaustive(fused, r)):
        index, score = of(found, query)
        last = score[r - 1] if len(score) >= r else -np.inf
        open_ones = np.setdiff1d(np.flatnonzero(bound[query] >= last), index)
        assert found.certified[query] == (len(open_ones) == 0)
        if found.certified[query]:
            assert np.array_equal(index[:r], truth)
            least = one_by_one(r, first.index[query], fused[query], bound[query])
            assert least <= len(index) <= 2 * least
        else:
            assert len(index) == max(limit, k)
            # None was passed over for one that has less of a chance.
            added = np.setdiff1d(index, first.index[query])
            assert len(added) == 0 or bound[query, added].min() >= bound[query, open_ones].max()


def test_the_best_video_is_found_where_the_candidates_miss_it() -> None:
    """Half of the coarse vectors lie closer to the text than its own, but one of its frames is the text."""
    random = np.random.default_rng(0)
    V, F, D = 60, 3, 8
    text = normalize(torch.ones(1, D), dim=-1)
    video = normalize(text + 0.5 * normal(random, V, D), dim=-1)
    tokens = video.unsqueeze(1).repeat(1, F, 1)
    best = int((video @ text[0]).argsort()[V // 2])
    tokens[best, 1] = text[0]
    videos = VideoFeatures(video, tokens, tokens, tokens.unsqueeze(2), torch.ones(V, F, dtype=torch.bool))
    weights = FusionWeights(video=0.1, frame_weak=0.9, tib_frame=0.0, patch_weak=0.0)
    fused = fuse(score_each(text, videos, torch.eye(D), None, weights), weights).numpy()
    first = search(text.numpy(), video.numpy(), 5)
    assert exhaustive(fused, 1)[0, 0] == best
    assert best not in first.index
    bound = upper_bounds(text, text, video, reach_of(videos), weights, None)
    found = certified(1, first, fused, bound, V)
    assert found.certified.all()
    assert of(found, 0)[0][0] == best
    assert found.k[0] < V / 2
    assert not certified(1, first, fused, bound, 5).certified.any()


@pytest.mark.parametrize("mixed", [False, True])
def test_few_videos_are_scored_where_tokens_stay_near_their_coarse_vector(mixed: bool) -> None:
    random = np.random.default_rng(0)
    V, F, P, D, k, r = 600, 4, 2, 8, 20, 10
    videos = videos_of(random, "near", V, F, P, D)
    frames, temporal, patches = (
        normalize(videos.video[:, None] + 0.03 * normal(random, V, N, D), dim=-1) for N in (F, F, F * P)
    )
    videos = VideoFeatures(videos.video, frames, temporal, patches.reshape(V, F, P, D), torch.ones(V, F).bool())
    text, weights = normalize(normal(random, 50, D), dim=-1), FusionWeights()
    mixing = torch.eye(F) + 0.01 * normal(random, F, F) if mixed else None
    fused = fuse(score_each(text, videos, torch.eye(D), mixing, weights), weights).numpy()
    bound = upper_bounds(text, text, videos.video, reach_of(videos), weights, mixing)
    found = certified(r, search(text.numpy(), videos.video.numpy(), k), fused, bound, V)
    assert found.certified.all()
    assert k <= found.k.mean() < V / 4
    assert np.array_equal(np.stack([of(found, query)[0][:r] for query in range(50)]), exhaustive(fused, r))
