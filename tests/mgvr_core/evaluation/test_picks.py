"""The examples on the page: of the right kind, drawn without a thumb on the scale."""

import numpy as np

from mgvr_core.evaluation.metrics import MISSING, Ranks, positions_from_scores, ranks
from mgvr_core.evaluation.picks import pick_examples


def ranked(values):
    rank = np.array(values, dtype=float)
    return Ranks(rank, rank, rank, np.ones(len(rank), dtype=bool))


def test_each_kind_is_what_it_says():
    coarse, two_stage = ranked([3, 1, 1, 80, 4]), ranked([1, 2, 1, 80, 2])

    assert pick_examples(coarse, two_stage, k=50, each=1) == [
        (0, "win"),
        (1, "loss"),
        (2, "both_right"),
        (3, "missed"),
        (3, "worst"),
    ]


def test_the_worst_are_not_drawn_but_the_lowest():
    coarse, two_stage = ranked([9, 9, 9, 9, 1]), ranked([4, 70, 3, 80, 1])

    assert [query for query, kind in pick_examples(coarse, two_stage, k=90, each=2) if kind == "worst"] == [3, 1]
    assert [query for query, kind in pick_examples(coarse, two_stage, k=90, each=9) if kind == "worst"] == [3, 1, 0, 2]


def test_no_more_than_asked_and_the_same_for_the_same_seed():
    coarse, two_stage = ranked([2] * 100), ranked([1] * 100)
    first = pick_examples(coarse, two_stage, k=50, each=4, seed=1)

    assert len({query for query, _ in first}) == 4  # all of them won, so none is among the worst
    assert first == pick_examples(coarse, two_stage, k=50, each=4, seed=1)
    assert first != pick_examples(coarse, two_stage, k=50, each=4, seed=2)


def test_a_query_without_a_right_video_in_the_pool_is_no_example():
    rank = ranks(positions_from_scores(np.zeros((1, 3)), [[MISSING]]))

    assert pick_examples(rank, rank, k=2) == []
