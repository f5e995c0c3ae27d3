"""Videos that come first for queries that ask for something else."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mgvr_core.evaluation.hubs import hubs


def test_a_hub_comes_first_more_often_than_it_is_right_for():
    first = np.array([0] * 7 + [1] * 4 + [2] * 3 + [3])
    right = np.array([2, 3, 0, 10])

    assert hubs(first, right) == ((0, 7, 2), (2, 3, 0))  # the second is right three times out of four


def test_those_that_took_most_places_come_first_and_no_more_than_asked():
    first = np.array([0] * 5 + [1] * 9 + [2] * 5)

    assert hubs(first, np.zeros(3, int), n=2) == ((1, 9, 0), (0, 5, 0))


@given(st.lists(st.integers(0, 5), max_size=50))
def test_a_video_first_only_where_it_is_right_is_no_hub(first):
    asked = np.array(first, np.int64)

    assert hubs(asked, np.bincount(asked, minlength=6)) == ()
