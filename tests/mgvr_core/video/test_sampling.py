from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgvr_core.config import parse
from mgvr_core.errors import MgvrError
from mgvr_core.video.sampling import SamplingConfig, instants

durations = st.floats(1e-3, 1e6, allow_nan=False)
configs = st.builds(
    SamplingConfig,
    strategy=st.sampled_from(["fps", "uniform"]),
    fps=st.floats(0.01, 1000),
    frames=st.integers(1, 64),
)


@given(durations, configs)
def test_instants_lie_in_the_video_in_ascending_order_and_within_the_budget(
    duration: float, config: SamplingConfig
) -> None:
    seconds = instants(duration, config)
    assert seconds.dtype == np.float64
    assert 1 <= len(seconds) <= config.frames
    assert np.all(np.diff(seconds) > 0)
    assert seconds[0] >= 0
    assert seconds[-1] < duration


@given(durations, st.floats(0.01, 1000), st.integers(1, 64))
def test_a_fixed_rate_takes_only_multiples_of_its_step_and_all_of_them_while_they_fit(
    duration: float, fps: float, frames: int
) -> None:
    seconds = instants(duration, SamplingConfig(fps=fps, frames=frames))
    steps = seconds * fps
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6 * max(1.0, steps[-1]))
    assert seconds[0] == 0
    if len(seconds) < frames:
        assert np.array_equal(seconds, np.arange(len(seconds)) / fps)
        assert len(seconds) / fps >= duration


def test_a_long_video_is_thinned_out_as_clip4clip_does() -> None:
    # 30 candidates, 12 of them: the integer parts of 12 evenly spaced numbers from 0 to 29.
    assert instants(29.5, SamplingConfig(frames=12)).tolist() == [0, 2, 5, 7, 10, 13, 15, 18, 21, 23, 26, 29]


def test_an_instant_at_the_very_end_is_not_in_the_video() -> None:
    assert instants(3.0, SamplingConfig()).tolist() == [0, 1, 2]
    assert instants(3.0000001, SamplingConfig()).tolist() == [0, 1, 2, 3]
    assert instants(0.3, SamplingConfig(fps=10)).tolist() == [0, 0.1, 0.2]


def test_uniform_takes_the_middle_of_equal_parts() -> None:
    assert instants(8.0, SamplingConfig(strategy="uniform", frames=4)).tolist() == [1, 3, 5, 7]


def test_a_video_without_length_has_one_instant() -> None:
    for strategy in ("fps", "uniform"):
        assert instants(0.0, SamplingConfig(strategy=strategy)).tolist() == [0]


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"fps": float("inf")}, {"frames": 0}, {"strategy": "random"}])
def test_senseless_sampling_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(MgvrError, match=next(iter(wrong))):
        parse(SamplingConfig, wrong, "a test")
