"""Recordings glued into one stream: played one after another, whatever their clocks say."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgvr_core.video.decoders import Request, decode
from mgvr_core.video.recordings import find_recordings
from mgvr_core.video.sampling import SamplingConfig, instants


def glued(films, folder: Path, begin: float) -> Path:
    """30 pictures, 12 a second, and behind them 30 of twice the size, 20 a second, from the second `begin` on."""
    first = films.write(folder / "1.ts", [films.numbered(n) for n in range(30)], options={"g": "12", "bf": "3"})
    times = [begin + number / 20 for number in range(30)]
    pictures = [films.numbered(30 + number, 128) for number in range(30)]
    second = films.write(folder / "2.ts", pictures, options={"bf": "0"}, times=times)
    path = folder / "glued.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    return path


# The second clock begins anew, or hours later: a transport stream's clock may leap either way.
@pytest.mark.parametrize("begin", [0.0, 7200.0])
def test_a_second_recording_begins_where_the_first_ends(films, tmp_path: Path, begin: float) -> None:
    sampling = SamplingConfig(fps=40, frames=1000)
    clip = decode("pyav", Request(str(glued(films, tmp_path, begin)), sampling, 64))
    starts = np.concatenate([np.arange(30) / 12, 2.5 + np.arange(30) / 20])
    shown = np.searchsorted(starts, instants(clip.duration, sampling) + 1e-6, side="right") - 1
    assert films.numbers(clip.frames) == shown.tolist()
    assert set(shown) == set(range(60))
    np.testing.assert_allclose(clip.timestamps, starts[shown], atol=1e-6)
    assert clip.duration == pytest.approx(4.0, abs=0.05)


def test_a_long_gap_in_a_file_that_keeps_one_clock_is_a_gap(films, tmp_path: Path) -> None:
    times = [*(number / 10 for number in range(10)), *(60 + number / 10 for number in range(10))]
    path = films.write(tmp_path / "gap.mkv", [films.numbered(number) for number in range(20)], times=times)
    clip = decode("pyav", Request(str(path), SamplingConfig(fps=0.1), 64))
    assert films.numbers(clip.frames) == [0, 9, 9, 9, 9, 9, 10]


TICKS = Fraction(1, 1000)
# Clocks that go on, are late, leap, or begin anew: for each, where it begins and how long each frame is shown.
clocks = st.lists(
    st.tuples(st.integers(0, 40_000), st.lists(st.integers(1, 9000), min_size=1, max_size=5)), min_size=1, max_size=6
)


@given(clocks, st.booleans())
def test_every_recording_keeps_its_own_times_and_begins_where_the_one_before_ends(clocks, leaps: bool) -> None:
    edges = [list(itertools.accumulate(lengths, initial=begin)) for begin, lengths in clocks]
    pts = [time for each in edges for time in each[:-1]]
    ends = [time for each in edges for time in each[1:]]
    found = find_recordings(pts, pts, ends, TICKS, leaps)
    steps = [later - earlier for earlier, later in itertools.pairwise(pts)]
    anew = [number for number, step in enumerate(steps, 1) if step < -100 or (leaps and step > 10_000)]
    parts = [range(begin, end) for begin, end in itertools.pairwise([0, *anew, len(pts)])]
    for part in parts:
        assert len({found.shift(number) for number in part}) == 1
    for part, following in itertools.pairwise(parts):
        begin = min(pts[number] + found.shift(number) for number in following)
        assert begin == max(ends[number] + found.shift(number) for number in part)
    assert found.shift(0) == 0


def test_a_frame_that_is_only_late_begins_no_recording() -> None:
    pts = [0, 40, 80, 50, 120]  # milliseconds
    assert len(find_recordings(pts, pts, [time + 40 for time in pts], TICKS, leaps=True)) == 1


def test_one_stamp_gone_wild_costs_no_more_than_its_own_frame() -> None:
    pts = [0, 40, 9_000_000, 120, 160]
    found = find_recordings(pts, pts, [time + 40 for time in pts], TICKS, leaps=True)
    assert [time + found.shift(number) for number, time in enumerate(pts)] == [0, 40, 80, 120, 160]
