"""Coarse against two-stage, from positions to the figures of the report."""

import numpy as np
import pytest

from mgvr_core.evaluation.bootstrap import interval, paired_gain
from mgvr_core.evaluation.comparison import compare
from mgvr_core.evaluation.metrics import per_query, positions_from_scores, ranks, recall_at, summarise


def test_both_systems_stand_side_by_side_with_the_figures_of_the_summary(positions):
    direction = compare(*positions, k=10, samples=50)

    for found, of in ((direction.coarse, positions[0]), (direction.two_stage, positions[1])):
        assert {name: one.value for name, one in found.items()} == summarise(of).values
    assert (direction.queries, direction.pool, direction.unanswerable) == (120, 40, 1)


def test_intervals_and_gains_are_the_bootstrap_of_the_per_query_vectors(positions):
    old, new = (per_query(one)["R@1"].values for one in positions)

    direction = compare(*positions, k=10, samples=100, seed=3)

    assert direction.coarse["R@1"] == interval(old, samples=100, seed=3)
    assert direction.gain["R@1"] == paired_gain(new, old, samples=100, seed=3)
    assert direction.gain["R@1"].excludes_zero


def test_groups_widen_the_intervals_of_queries_that_go_together():
    hits = np.repeat(np.arange(30) % 2, 4)  # the four captions of a video succeed or fail together
    positions = positions_from_scores(np.where(hits[:, None] == 1, [[2, 1]], [[1, 2]]).astype(float), [[0]] * 120)

    single = compare(positions, positions, k=1, samples=300)
    grouped = compare(positions, positions, k=1, samples=300, groups=np.repeat(np.arange(30), 4).tolist())

    assert grouped.interval_unit == "group"
    width = [d.coarse["R@1"].high - d.coarse["R@1"].low for d in (single, grouped)]
    assert width[1] > 1.5 * width[0]


def test_the_ceiling_is_the_recall_of_the_candidates(positions):
    direction = compare(*positions, k=10, samples=50)

    assert direction.recall_at_k.value == recall_at(ranks(positions[0]), 10).mean()


def test_the_curve_is_recall_at_every_k_that_it_names(positions):
    curve = compare(*positions, k=10, samples=50).curve

    assert curve.k[0] == 1
    assert curve.k[-1] == 40
    assert curve.two_stage == tuple(recall_at(ranks(positions[1]), k).mean() for k in curve.k)


def test_every_query_is_in_one_cell_of_the_movement_table():
    coarse = positions_from_scores(np.array([[9, 5, 4, 3, 2], [1, 5, 4, 3, 2], [4, 5, 1, 1, 1.0]]), [[0], [0], [0]])
    two_stage = positions_from_scores(np.array([[9, 5, 4, 3, 2], [1, 5, 4, 3, 2], [9, 5, 1, 1, 1.0]]), [[0], [0], [0]])

    movement = compare(coarse, two_stage, k=3, samples=10).movement

    assert movement.bands == ("1", "2–3", "> 3")
    assert movement.counts == ((1, 0, 0), (1, 0, 0), (0, 0, 1))


@pytest.mark.parametrize(("k", "bands"), [(1, ("1", "> 1")), (5, ("1", "2–5", "> 5")), (6, ("1", "2–5", "6", "> 6"))])
def test_bands_fit_any_k(positions, k, bands):
    movement = compare(*positions, k=k, samples=10).movement

    assert movement.bands == bands
    assert sum(map(sum, movement.counts)) == 120


def test_ties_are_reported_with_their_bounds_and_only_where_there_are_any():
    clear = positions_from_scores(np.eye(4), [[0], [1], [2], [3]])
    tied = positions_from_scores(np.ones((4, 4)), [[0], [1], [2], [3]])

    ties = compare(tied, clear, k=2, samples=10).ties

    assert list(ties) == ["coarse"]
    assert ties["coarse"].queries == 4
    assert ties["coarse"].optimistic["R@1"] == 1
    assert ties["coarse"].pessimistic["R@1"] == 0


def test_single_scores_are_measured_by_name(positions):
    scores = compare(*positions, k=10, scores={"video": positions[0], "coarse": positions[1]}, samples=10).scores

    assert scores["video"]["R@1"].value == summarise(positions[0]).values["R@1"]
    assert scores["coarse"]["R@1"].value == summarise(positions[1]).values["R@1"]
