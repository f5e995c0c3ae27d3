"""Figures as people read them, at the places where rounding changes the unit."""

import pytest

from mgvr_core.evaluation import wording
from mgvr_core.evaluation.report import Macs


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.042, "42 ms"), (0.9996, "1.0 s"), (3.21, "3.2 s"), (59.97, "1 min 0 s"), (119.7, "2 min 0 s")],
)
def test_seconds(value, text):
    assert wording.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (512, "512"), (16_320_000, "16.3 M"), (999_999, "1 M"), (1.2e15, "1200 T")]
)
def test_quantities(value, text):
    assert wording.quantity(value) == text


def test_large_ratios_are_whole_numbers():
    rows = wording.macs_rows(Macs(coarse=1, two_stage=100, exhaustive=2_000_000))

    assert [ratio for _, _, ratio in rows] == ["0.01×", "1×", "20,000×"]


@pytest.mark.parametrize(
    ("name", "value", "sign", "text"),
    [
        ("R@1", 0.4312, "", "43.1"),
        ("R@1", -0.0312, "+", "−3.1"),
        ("MnR", 1234.56, "", "1,234.6"),
        ("MRR", 0.5, "", "0.500"),
    ],
)
def test_figures(name, value, sign, text):
    assert wording.figure(name, value, sign) == text


def test_moments_say_their_zone():
    assert wording.moment("2025-11-01T09:05:00+00:00") == "1 November 2025, 09:05 UTC"


@pytest.mark.parametrize(("rank", "text"), [(1.0, "1"), (7.5, "7.5"), (12345.0, "12,345")])
def test_ranks(rank, text):
    assert wording.rank_text(rank) == text
