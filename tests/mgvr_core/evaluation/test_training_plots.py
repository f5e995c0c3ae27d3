"""The plots of a training run: lines that are the records, thinned where a page can't hold them all."""

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import read
from training_logs import SCORES, report, step

from mgvr_core.evaluation.training_plots import Line, course, thinned
from mgvr_core.evaluation.training_report import write_training_report

__all__ = ["report"]


def polyline(plot, colour):
    points = re.search(rf'<polyline class="line {colour}" points="([^"]*)"', plot.svg).group(1)
    return np.array([[float(number) for number in point.split(",")] for point in points.split()])


def test_a_plot_draws_the_records(report):
    """Heights on the loss plot are the losses, up to one affine map of the axis; lengths are the steps."""
    plots = {plot.title: plot for plot in course(report.log.steps, report.log.epochs, [], 5)}

    total, weak = polyline(plots["Loss"], "c0"), polyline(plots["Loss"], "c1")
    drawn = np.concatenate([total, weak])
    x = [one["step"] for one in report.log.steps] * 2
    y = [one[key] for key in ("loss", "loss_weak") for one in report.log.steps]
    for measured, on_paper, sign in ((x, drawn[:, 0], 1), (y, drawn[:, 1], -1)):
        slope, offset = np.polyfit(measured, on_paper, 1)
        assert slope * sign > 0
        np.testing.assert_allclose(slope * np.array(measured) + offset, on_paper, atol=0.11)
    assert plots["Loss"].keys == (("c0", "total"), ("c1", "weak"), ("c2", "strong"))
    assert [name for _, name in plots["Validation R@1, percent"].keys] == list(SCORES)


@settings(deadline=None)
@given(st.lists(st.just(0.0) | st.floats(1e-200, 1e12), min_size=1, max_size=50))
def test_whatever_the_figures_the_lines_stay_within_their_frame(values):
    steps = [{**step(number), "loss": y, "grad_norm": y, "lr": y} for number, y in enumerate(values, start=1)]

    for plot in course(steps, [], [], 5):
        points = polyline(plot, "c0")
        grid = [float(y) for y in re.findall(r'class="grid" [^>]* y1="([^"]*)"', plot.svg)]
        assert 2 <= len(grid) <= 9
        assert (points[:, 1] >= min(grid) - 0.1).all()
        assert (points[:, 1] <= max(grid) + 0.1).all()
        assert "nan" not in plot.svg


def test_rates_a_hundred_times_apart_are_on_a_log_axis():
    steps = [step(number) for number in range(1, 10)]
    near = [{**one, "lr_clip": 1e-4} for one in steps]
    frozen = [{key: value for key, value in one.items() if key != "lr_clip"} for one in steps]

    notes = []
    for records in (steps, near, frozen):
        (plot,) = (plot for plot in course(records, [], [], 5) if plot.title == "Learning rate")
        notes.append((plot.note, [name for _, name in plot.keys]))
    assert notes == [("log scale", ["new parameters", "CLIP"]), ("", ["new parameters", "CLIP"]), ("", [])]


def test_resumes_and_the_chosen_checkpoint_are_marked_in_every_plot(report, tmp_path):
    page = read(write_training_report(report, tmp_path))["training.html"]

    plots = page.split('<svg class="plot"')[1:]
    assert len(plots) == 7
    for plot in plots:
        assert plot.count('class="mark resumed"') == plot.count('class="mark chosen"') == 1
        assert "resumed after step 4" in plot


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0.01, 10)), min_size=1, max_size=40),
    st.integers(1, 1500),
)
def test_thinning_keeps_extremes_ends_and_the_weighted_mean(pattern, length):
    y, weight = (np.resize(np.array(column), length) for column in zip(*pattern, strict=True))
    x = np.arange(1.0, length + 1)

    at, mean, low, high = thinned(Line("", x, y, weight))

    assert len(at) == len(mean) == len(low) == len(high) <= 600
    assert low.min() == y.min()
    assert high.max() == y.max()
    slack = 1e-9 * max(1.0, np.abs(y).max())
    assert (low <= mean + slack).all()
    assert (mean <= high + slack).all()
    assert (np.diff(at) > 0).all()
    if length <= 600:
        assert (at == x).all()
        assert (mean == y).all()


def test_the_mean_rate_of_a_stretch_is_its_pairs_by_its_time():
    """A slow step counts by its time: 64 pairs in 3 s and in 1 s are 32 pairs/s, not the mean of 21 and 64."""
    seconds = np.where(np.arange(800) % 2 == 0, 3.0, 1.0)

    _, mean, _, _ = thinned(Line("", np.arange(800.0), 64 / seconds, seconds))

    np.testing.assert_allclose(mean, 32)
