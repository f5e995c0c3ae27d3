"""The usual scripts' figures, oddities included: worked by hand, and against the scripts' own steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.compatible import text_to_video, video_to_text
from mgvr_core.evaluation.metrics import positions_from_scores, summarise

NAN, INF = float("nan"), float("inf")


def test_every_tied_column_is_a_further_rank() -> None:
    printed = text_to_video(np.zeros((100, 100)), np.arange(100))

    assert printed.ranks == 10_000
    assert printed.values == {"R@1": 0.01, "R@5": 0.05, "R@10": 0.1, "MdR": 50.5, "MnR": 50.5}


def test_one_tie_among_three_queries() -> None:
    # Ranks 1, then 1 and 2, then 3: four ranks of three queries.
    scores = np.array([[0.9, 0.1, 0.2], [0.1, 0.5, 0.5], [0.8, 0.7, 0.6]])

    printed = text_to_video(scores, np.arange(3))

    assert printed.ranks == 4
    assert printed.values == {"R@1": 0.5, "R@5": 1.0, "R@10": 1.0, "MdR": 1.5, "MnR": 1.75}


def test_a_query_whose_right_score_is_not_a_number_is_dropped_without_a_word() -> None:
    # Ranks: 1; dropped; 2, the NaN of another video standing below everything.
    scores = np.array([[0.9, 0.1, 0.2], [0.1, NAN, 0.5], [0.8, NAN, 0.6]])

    printed = text_to_video(scores, np.arange(3))

    assert (printed.ranks, printed.values["R@1"], printed.values["MnR"]) == (2, 0.5, 1.5)


def test_an_infinite_right_score_is_dropped_too() -> None:
    printed = text_to_video(np.array([[INF, 0.1], [0.9, 0.5]]), np.arange(2))

    assert (printed.ranks, printed.values["MnR"]) == (1, 2.0)


def test_several_captions_give_one_rank_each_and_ties_go_by_the_order_of_the_videos() -> None:
    # Captions of video 0: rank 1, and the first place of a tie. Of video 1: the second of a tie, and rank 1.
    scores = np.array([[0.9, 0.1], [0.5, 0.5], [0.5, 0.5], [0.1, 0.9]])

    printed = text_to_video(scores, np.array([0, 0, 1, 1]))

    assert printed.ranks == 4
    assert printed.values == {"R@1": 0.75, "R@5": 1.0, "R@10": 1.0, "MdR": 1.0, "MnR": 1.25}


def test_the_median_of_several_captions_is_the_lower_one() -> None:
    scores = np.array([[0.9, 0.1], [0.1, 0.9]])

    assert text_to_video(scores, np.array([0, 0])).values["MdR"] == 1.0  # of the ranks 1 and 2
    assert text_to_video(scores, np.array([0, 1])).values["MdR"] == 1.0
    assert text_to_video(scores[[0, 0]], np.array([0, 1])).values["MdR"] == 1.5  # one caption each: the mean


def test_among_several_captions_another_video_s_nan_stands_above() -> None:
    scores = np.array([[0.9, NAN], [NAN, 0.1], [0.1, 0.9]])

    printed = text_to_video(scores, np.array([0, 0, 1]))

    # Ranks 2, dropped, 1.
    assert (printed.ranks, printed.values["R@1"], printed.values["MnR"]) == (2, 0.5, 1.5)


def test_a_video_s_captions_count_by_the_best_of_them() -> None:
    # Video 0 has captions 0 and 2 with 0.1 and 0.8; caption 1 is video 1's. Video 1: 0.7 against 0.9.
    scores = np.array([[0.1, 0.5, 0.8], [0.9, 0.7, NAN]])

    printed = video_to_text(scores, np.array([0, 1, 0]))

    assert (printed.ranks, printed.values["R@1"], printed.values["MnR"]) == (2, 0.5, 1.5)


def test_nothing_but_nan_is_refused() -> None:
    with pytest.raises(MgvrError, match="divide by zero"):
        text_to_video(np.full((2, 2), NAN), np.arange(2))


def one_caption_script(scores: NDArray[Any]) -> dict[str, float]:
    """The steps of compute_metrics: sort, subtract, look for zeros."""
    with np.errstate(invalid="ignore"):
        places = np.where(np.sort(-scores, axis=1) - np.diag(-scores)[:, None] == 0)[1]
    return {
        **{f"R@{k}": float((places < k).sum()) / len(places) for k in (1, 5, 10)},
        "MdR": float(np.median(places)) + 1,
        "MnR": float(np.mean(places)) + 1,
    }


def padded(scores: NDArray[Any], captions: list[int]) -> torch.Tensor:
    """(videos, most captions, videos), missing captions -inf."""
    parts = np.split(scores, np.cumsum(captions)[:-1])
    most = max(captions)
    return torch.tensor(
        np.stack([np.concatenate([part, np.full((most - len(part), scores.shape[1]), -INF)]) for part in parts])
    )


def several_captions_script(tensor: torch.Tensor) -> dict[str, float]:
    """The steps of tensor_text_to_video_metrics: two argsorts, the diagonal, without what is infinite or NaN."""
    order = tensor.permute(1, 0, 2).argsort(dim=-1, descending=True, stable=True)
    places = order.argsort(dim=-1).diagonal(dim1=1, dim2=2).flatten()
    places = places[tensor.diagonal(dim1=0, dim2=2).flatten().isfinite()]
    return {
        **{f"R@{k}": float((places < k).double().mean()) for k in (1, 5, 10)},
        "MdR": float(torch.median(places + 1)),
        "MnR": float((places + 1).double().mean()),
    }


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[Any], list[int]]:
    """Captions a video, and scores with ties, NaN and infinities; at least one right score is finite."""
    captions = draw(st.lists(st.integers(1, 3), min_size=2, max_size=12))
    score = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, NAN, INF, -INF])
    size = (sum(captions), len(captions))
    scores = np.array(draw(st.lists(score, min_size=size[0] * size[1], max_size=size[0] * size[1]))).reshape(size)
    scores[0, 0] = 0.3
    return scores, captions


@settings(deadline=None, max_examples=80)
@given(cases())
def test_the_scripts_steps_give_the_same(case: tuple[NDArray[Any], list[int]]) -> None:
    scores, captions = case
    right = np.repeat(np.arange(len(captions)), captions)
    first = scores[np.flatnonzero(np.diff(right, prepend=-1))]  # one caption a video
    assert text_to_video(first, np.arange(len(first))).values == pytest.approx(one_caption_script(first))
    assert video_to_text(first.T, np.arange(len(first))).values == pytest.approx(one_caption_script(first.T))

    tensor = padded(scores, captions)
    if max(captions) > 1:
        assert text_to_video(scores, right).values == pytest.approx(several_captions_script(tensor))
    best = tensor.nan_to_num(-INF, INF, -INF).amax(dim=1).T.numpy()  # videos, groups
    if np.isfinite(np.diag(best)).any():
        assert video_to_text(scores.T, right).values == pytest.approx(one_caption_script(best))


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 30), st.integers(0, 999))
def test_without_ties_and_nan_they_print_the_honest_figures(size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.permutation(size * size).reshape(size, size).astype(np.float32)
    honest = summarise(positions_from_scores(scores, [[i] for i in range(size)])).values

    printed = text_to_video(scores, np.arange(size))

    assert printed.values == pytest.approx({name: honest[name] for name in printed.values})
