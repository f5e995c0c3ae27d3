"""A similarity matrix: refused where it is none, and ranked in both directions as its truth says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation import matrix
from mgvr_core.evaluation.hubness import CorrectionConfig
from mgvr_core.evaluation.matrix import best_lists, corrected, open_matrix, require_finite, text_to_video, video_to_text
from mgvr_core.evaluation.metrics import positions_from_scores, ranks, summarise
from mgvr_core.evaluation.truth import Truth

TRUTH = Truth(("q0", "q1", "q2", "q3"), ("a", "b", "c"), (("a",), ("b",), ("a",), ("b", "gone")))
"""Two captions of a; one of b; one of b and of a video that is not in the pool; c is nobody's."""
SCORES = np.array([[0.9, 0.1, 0.2], [0.3, 0.2, 0.8], [0.6, 0.7, 0.1], [0.4, 0.5, 0.0]], np.float32)


def saved(folder: Path, values: Any) -> Path:
    np.save(folder / "scores.npy", values)
    return folder / "scores.npy"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_every_width_of_float_is_read_from_the_disk_as_it_is(tmp_path: Path, dtype: Any) -> None:
    found = open_matrix(saved(tmp_path, SCORES.astype(dtype)))

    assert isinstance(found, np.memmap)
    assert found.dtype == np.dtype(dtype)
    assert ranks(text_to_video(found, TRUTH)).mid.tolist() == [1, 3, 2, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 4), int), "holds int64: scores are float16"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.zeros((0, 4)), r"shape \(0, 4\)"),
        (np.array([["a", 1.0]], object), "not a whole .npy file of numbers"),
    ],
)
def test_what_is_no_matrix_of_scores_is_refused(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(MgvrError, match=message):
        open_matrix(saved(tmp_path, values))


def test_a_file_that_is_cut_short_missing_or_an_archive_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, SCORES)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(MgvrError, match=r"scores\.npy is not a whole"):
        open_matrix(path)
    with pytest.raises(MgvrError, match=r"cannot read .*nowhere\.npy"):
        open_matrix(tmp_path / "nowhere.npy")
    np.savez(tmp_path / "scores.npz", SCORES)
    with pytest.raises(MgvrError, match="archive"):
        open_matrix(tmp_path / "scores.npz")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_score_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
    monkeypatch.setattr(matrix, "_BLOCK", 3)  # a row a block
    scores = SCORES.copy()
    scores[2, 1] = scores[3, 0] = bad

    with pytest.raises(MgvrError, match=rf"row 2 \(q2\) and column 1 \(b\), .* {bad}; 2 of 12 .* Do that"):
        require_finite(scores, Path("s.npy"), TRUTH.queries, TRUTH.videos, "Do that")


def test_videos_rank_groups_of_captions_by_the_best_one() -> None:
    # Groups {q0, q2}, {q1}, {q3}. Video a: 0.9 | 0.3 | 0.4, right is the first. Video b: 0.7 | 0.2 | 0.5, right are the
    # second and the third, of which the better is second. Nobody asks for c.
    found = video_to_text(SCORES.T[TRUTH.asking], TRUTH)

    assert (found.pool, found.num_queries) == (3, 2)
    assert ranks(found).mid.tolist() == [1, 2]


def test_single_captions_are_another_ranking() -> None:
    # Video b among captions: 0.1, 0.2, 0.7, 0.5; right are the second and the last, which stands behind one wrong one.
    found = video_to_text(SCORES.T[TRUTH.asking], TRUTH, single_captions=True)

    assert found.pool == 4
    assert found.present.tolist() == [2, 2]
    assert ranks(found).mid.tolist() == [1, 2]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    across = SCORES.T[TRUTH.asking]
    whole = summarise(text_to_video(SCORES, TRUTH)), summarise(video_to_text(across, TRUTH)), [*best_lists(SCORES, 2)]
    monkeypatch.setattr(matrix, "_BLOCK", 1)

    assert (summarise(text_to_video(SCORES, TRUTH)), summarise(video_to_text(across, TRUTH))) == whole[:2]
    assert [*best_lists(SCORES, 2)] == whole[2] == [[0, 2], [2, 0], [1, 0], [1, 0]]


def test_the_dual_softmax_is_over_the_queries_and_times_the_score() -> None:
    exponents = np.exp(100 * SCORES.astype(float))
    found, label = corrected(CorrectionConfig(kind="dual_softmax"), SCORES)

    np.testing.assert_allclose(found, SCORES * exponents / exponents.sum(axis=0), rtol=1e-6)
    assert label == "dual softmax (transductive: reads the other test queries); beta 100"


def test_a_bank_is_of_the_same_columns() -> None:
    bank = np.array([[0.1, 0.9, 0.3]], np.float32)  # a hub: b, the best of q2 and q3
    found, _ = corrected(CorrectionConfig(kind="qb_norm"), SCORES, bank)

    np.testing.assert_allclose(found[:2], SCORES[:2], rtol=1e-6)
    np.testing.assert_allclose(found[2:], 20.0 * (SCORES[2:].astype(float) - bank.astype(float)), rtol=1e-6)


def test_a_real_matrix_has_its_published_figures(shared: Path) -> None:
    scores = open_matrix(shared / "features" / "msrvtt_1ka_similarity.npy")
    right = [[row] for row in range(1000)]
    lifted, _ = corrected(CorrectionConfig(kind="dual_softmax"), scores)

    for found, published in ((scores, [48.0, 73.0, 82.9]), (lifted, [52.8, 78.0, 85.8])):
        metrics = summarise(positions_from_scores(found, right))
        assert [round(100 * metrics.values[f"R@{k}"], 1) for k in (1, 5, 10)] == published
        assert metrics.tied_queries == 0
