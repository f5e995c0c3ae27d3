"""Who asks and what is right, and the places of right videos in lists that other tools wrote."""

from __future__ import annotations

import numpy as np

from mgvr_core.evaluation.metrics import MISSING, ranks
from mgvr_core.evaluation.truth import Truth, positions_in_lists

TRUTH = Truth(("q0", "q1", "q2", "q3"), ("a", "b", "c"), (("a",), ("b", "gone"), ("a",), ("gone", "b")))


def test_groups_are_captions_with_the_same_right_videos_whatever_their_order() -> None:
    assert TRUTH.columns == [[0], [1, MISSING], [0], [MISSING, 1]]
    assert TRUTH.groups.tolist() == [0, 1, 0, 1]
    assert TRUTH.clustered
    assert TRUTH.asking.tolist() == [0, 1]
    assert TRUTH.captions == {0: [0, 2], 1: [1, 3]}


def test_only_queries_with_one_right_video_of_the_pool_make_a_diagonal() -> None:
    assert TRUTH.only is None
    assert Truth(("q",), ("a",), (("gone",),)).only is None
    found = Truth(("q0", "q1"), ("a", "b", "c"), (("c",), ("a",)))
    assert found.only is not None
    assert found.only.tolist() == [2, 0]
    assert not found.clustered


def test_lists_give_places_with_ties_and_what_they_lack_is_missing() -> None:
    lists = {"q0": [("b", 2.0), ("c", 1.0), ("a", 1.0)], "q1": [("b", 0.5)], "q2": [("b", 3.0), ("c", 1.0)]}

    found = positions_in_lists(lists, TRUTH)

    rank = ranks(found)
    assert rank.mid.tolist() == [2.5, 1, 4, 4]  # q2's list lacks a, q3 has no list: one behind a pool of three
    assert rank.answerable.tolist() == [True, True, False, False]
    assert (rank.best[0], rank.worst[0]) == (2, 3)
    np.testing.assert_array_equal(found.missing, [0, 1, 1, 2])
