"""The report of a training run, from the log's lines to the pages."""

import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.bootstrap import Interval
from mgvr_core.evaluation.training_page import Selection
from mgvr_core.evaluation.training_plots import Line, course, thinned
from mgvr_core.evaluation.training_report import (
    Fusion,
    Setup,
    TrainingLog,
    TrainingReport,
    read_log,
    write_training_report,
)

EVIL = """<script>alert("x")</script> & 'quoted' | `code` [a](b) *bold*"""
SCORES = ("video", "frame_weak", "tib_frame", "fused", "released")
RESUME = {"step": 4, "at": "2026-11-25T12:00:00+00:00", "workers": 2}


def step(number, per_epoch=5):
    return {
        "step": number,
        "epoch": (number - 1) // per_epoch + 1,
        "loss": 4 / number,
        "loss_weak": 3.5 / number,
        "loss_strong": 3 / number,
        "loss_pearson": 40.0,
        "lr": 1e-3,
        "lr_clip": 1e-6,
        "logit_scale": 20.0,
        "grad_norm": 1.3,
        "pairs": 64,
        "seconds": 0.25,
        "wait_seconds": 0.01 * (number % 2),
    }


def epoch(number, per_epoch=5):
    last = step(number * per_epoch, per_epoch)
    recalls = {f"R@1_{name}": 0.01 * number + 0.1234 * place for place, name in enumerate(SCORES)}
    measured = {"seconds": 1.5, "wait_seconds": 0.06, "pairs": 320, **recalls, "fusion": {"video": 0.2}}
    return {
        **{key: value for key, value in last.items() if not key.startswith("l")},
        **measured,
        "loss": 7.125 / number,
    }


def log_of(steps, epochs=0, per_epoch=5):
    return TrainingLog(
        tuple(step(number, per_epoch) for number in range(1, steps + 1)),
        tuple(epoch(number, per_epoch) for number in range(1, epochs + 1)),
    )


@pytest.fixture
def report():
    return TrainingReport(
        title="A run",
        created="2026-11-25T10:12:00+00:00",
        command="mgvr train --out run",
        configuration={"out": "run", "optimiser": {"lr": 1e-4}},
        versions={"mgvr": "0.1.0"},
        hardware={"cpu": "2 cores"},
        fingerprint={"model": "0123456789abcdef"},
        setup=Setup(2600, 1300, 64, 5, 2, 2, 1_234_567, 5_000_000),
        log=dataclasses.replace(log_of(10, 2), resumes=(RESUME,)),
        selection=Selection("R@1_fused", epoch=2, step=10, value=0.3902),
        fusion=Fusion({"video": 0.2, "tib_frame": 1.1}, "fitted"),
        test={"R@1 video": Interval(0.0612, 0.05, 0.0789), "recall@50": 0.7771},
        failures=({"uri": "a.mp4", "stage": "decode", "kind": "corrupt", "message": "cut short"},),
        warnings=("This run was selected on its test split.",),
    )


def without_validation(report):
    return dataclasses.replace(
        report,
        log=log_of(1),
        setup=dataclasses.replace(report.setup, steps_per_epoch=1, epochs=1),
        selection=Selection("R@1_fused", epoch=1, step=1),
        fusion=Fusion({"video": 0.5}, "released"),
        test={},
        failures=(),
        warnings=(),
    )


def pages(report, folder):
    return {name: path.read_text(encoding="utf-8") for name, path in write_training_report(report, folder).items()}


class Page(HTMLParser):
    """The tags, attributes and text of a page; `open` is empty where every tag was closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def cells(markdown, header):
    """The rows of the Markdown table whose header begins with `header`."""
    rows = markdown.split(f"| {header} |", 1)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def written(folder, *lines):
    path = folder / "metrics.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_the_log_comes_back_by_kind_and_other_kinds_are_passed_over(tmp_path):
    records = [("step", step(1)), ("test", {"R@1": 0.5}), ("epoch", epoch(1)), ("resume", RESUME), ("step", step(2))]
    path = written(tmp_path, *(json.dumps({"kind": kind, **record}) + "\n" for kind, record in records))

    assert read_log(path) == TrainingLog((step(1), step(2)), (epoch(1),), (RESUME,))


@settings(deadline=None)
@given(st.integers(1, len(json.dumps({"kind": "step", **step(2)})) - 1))
def test_a_last_line_that_was_cut_anywhere_is_left_out(tmp_path_factory, length):
    first, second = (json.dumps({"kind": "step", **step(number)}) for number in (1, 2))
    path = written(tmp_path_factory.mktemp("log"), first + "\n", second[:length])

    assert read_log(path).steps == (step(1),)


def test_a_line_within_that_is_no_record_is_refused_by_its_number(tmp_path):
    good = json.dumps({"kind": "step", **step(1)}) + "\n"

    for bad in ('{"kind": "st\n', "\n", "[]\n"):
        with pytest.raises(MgvrError, match=r"metrics\.jsonl, line 2: not"):
            read_log(written(tmp_path, good, bad, good))


def test_a_record_without_a_needed_key_is_refused_by_line_and_key(tmp_path):
    lacking = {key: value for key, value in step(1).items() if key != "pairs"}

    with pytest.raises(MgvrError, match="line 1: a record of kind step without pairs"):
        read_log(written(tmp_path, json.dumps({"kind": "step", **lacking}) + "\n"))


def test_an_empty_log_is_a_log_and_a_missing_one_is_refused(tmp_path):
    assert read_log(written(tmp_path, "")) == TrainingLog()
    with pytest.raises(MgvrError, match=re.escape("absent.jsonl: can't read")):
        read_log(tmp_path / "absent.jsonl")


def test_three_files_and_nothing_else(report, tmp_path):
    paths = write_training_report(report, tmp_path / "new")

    assert sorted(paths) == ["training.html", "training.json", "training.md"]
    assert sorted((tmp_path / "new").iterdir()) == sorted(paths.values())


def test_the_json_holds_the_report_but_the_steps(report, tmp_path):
    document = json.loads(pages(report, tmp_path)["training.json"])

    assert document["figures"] == {
        "final_loss": report.log.epochs[-1]["loss"],
        "pairs_per_second": 64 / 0.25,
        "wait_share": pytest.approx(0.05 / 2.5),
    }
    assert document["log"] == {"epochs": list(report.log.epochs), "resumes": [RESUME]}
    assert document["test"] == {"R@1 video": {"value": 0.0612, "low": 0.05, "high": 0.0789}, "recall@50": 0.7771}
    assert document["selection"]["value"] == 0.3902
    assert document["warnings"] == list(report.warnings)
    assert document["failures"] == list(report.failures)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_a_number_is_refused_by_its_key_and_no_file_is_touched(report, tmp_path, value):
    steps = (*report.log.steps[:3], {**step(4), "loss_weak": value})
    epochs = ({**epoch(1), "R@1_fused": value},)
    broken = {
        "log.steps[3].loss_weak": {"log": TrainingLog(steps)},
        "log.epochs[0].R@1_fused": {"log": TrainingLog((), epochs)},
        "fusion.weights.video": {"fusion": Fusion({"video": value}, "fitted")},
        "test.R@1 video.low": {"test": {"R@1 video": Interval(0.1, value, 0.2)}},
        "configuration.lr": {"configuration": {"lr": value}},
    }

    for key, change in broken.items():
        with pytest.raises(MgvrError, match=re.escape(f"{key} is {value}")):
            write_training_report(dataclasses.replace(report, **change), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_sound_and_asks_for_nothing(report, tmp_path):
    for one in (report, without_validation(report), dataclasses.replace(report, log=TrainingLog())):
        text = pages(one, tmp_path)["training.html"]
        page = Page(text)

        assert page.open == []
        assert text.startswith("<!doctype html>")
        assert not {"script", "link", "iframe", "object", "embed", "base", "img", "a"} & set(page.tags)
        assert not {"src", "href", "srcset", "xlink:href"} & {name for name, _ in page.attributes}
        assert not re.search(r"url\(|@import|\bnan\b|\binf\b", text)
        assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes


def everywhere(report, text):
    """The report with `text` in every place that a user, a file name or a log can reach."""
    named = {text: text}
    return dataclasses.replace(
        report,
        title=text,
        command=text,
        configuration=named,
        versions=named,
        hardware=named,
        fingerprint=named,
        log=dataclasses.replace(report.log, epochs=({**epoch(1), f"R@1_{text}": 0.5},)),
        selection=dataclasses.replace(report.selection, metric=text),
        fusion=Fusion({text: 0.5}, "fitted"),
        test={text: 0.5},
        failures=({"uri": text, "stage": text, "kind": text, "message": text},),
        warnings=(text,),
    )


def test_text_from_outside_is_text_on_the_page(report, tmp_path):
    page = Page(pages(everywhere(report, EVIL), tmp_path)["training.html"])

    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 15
    assert page.open == []


def test_text_from_outside_is_text_in_markdown(report, tmp_path):
    text = pages(everywhere(report, EVIL + "\n# heading\n| cell |"), tmp_path)["training.md"]
    prose = text.split("## How it was made")[0]

    assert "<script" not in prose
    assert not re.search(r"(?<!\\)`", prose)
    assert "](b)" not in prose.replace("\\]", "")
    assert "\n# heading" not in text
    tables = [line for line in prose.splitlines() if re.search(r"(?<!\\)\|", line)]
    assert tables
    assert all(line.startswith("|") and line.endswith("|") for line in tables)


def test_warnings_come_before_every_figure(report, tmp_path):
    texts = pages(report, tmp_path)

    for name in ("training.html", "training.md"):
        text = texts[name].split("</style>")[-1]
        assert 0 < text.index("This run was selected on its test split.") < text.index("Final loss")


def test_both_pages_show_the_figures_of_the_records(report, tmp_path):
    texts = pages(report, tmp_path)
    expected = [
        f"{report.log.epochs[-1]['loss']:.3f}",
        "39.0",
        "epoch 2, step 10",
        "256",
        "2.0",
        "once: after step 4 (25 November 2026, 12:00 UTC, 2 workers)",
        "6.1",
        "5.0–7.9",
        "77.7",
        "Fitted to the validation split.",
        "1,234,567 of 5,000,000 (24.7 %)",
        "1 video could not be used.",
        "cut short",
        "mgvr train --out run",
        "0123456789abcdef",
    ]
    for name in ("training.html", "training.md"):
        assert [text for text in expected if text not in texts[name].split("</style>")[-1]] == []


def test_the_tables_of_epochs_hold_the_records(report, tmp_path):
    text = pages(report, tmp_path)["training.md"]

    losses = cells(text, "Epoch | Last step | Loss | Pairs/s | Waiting, % | Time")
    assert losses == [["1", "5", "7.125", "213", "4.0", "1.5 s"], ["2", "10", "3.562", "213", "4.0", "1.5 s"]]
    recalls = cells(text.replace("\\_", "_"), f"Epoch | {' | '.join(SCORES)}")
    assert recalls == [
        [str(one["epoch"]), *(f"{100 * one[f'R@1_{name}']:.1f}" for name in SCORES)] for one in report.log.epochs
    ]


def test_the_chosen_epoch_is_marked(report, tmp_path):
    first = dataclasses.replace(report, selection=Selection("R@1_fused", epoch=1, step=5, value=0.38))

    for one, number in ((report, "2"), (first, "1")):
        marked = re.findall(r'<tr class="marked"><td>(\d+)</td>', pages(one, tmp_path)["training.html"])
        assert marked == [number, number]  # the losses' table and the recalls'


def test_one_step_without_validation_is_a_report(report, tmp_path):
    texts = pages(without_validation(report), tmp_path)

    for name in ("training.html", "training.md"):
        text = texts[name].split("</style>")[-1]
        assert "4.000" in text
        assert "no validation split" in text
        assert "nothing was validated" in text
        assert not re.search("To know first|resumed|<h2>Test|## Test|Failures|Best validation|Fitted", text)
    assert json.loads(texts["training.json"])["selection"]["value"] is None


def test_only_the_first_failures_are_shown_and_the_rest_counted(report, tmp_path):
    many = tuple({**report.failures[0], "uri": f"clip-{number:04}.mp4"} for number in range(1234))
    texts = pages(dataclasses.replace(report, failures=many), tmp_path)

    assert len(re.findall(r"clip-\d+\.mp4", texts["training.html"])) == 50
    assert "1,234 videos could not be used. Here are the first 50; 1,184 more" in texts["training.html"]
    assert len(re.findall(r"clip-\d+\.mp4", texts["training.md"])) == 10
    assert len(json.loads(texts["training.json"])["failures"]) == 1234


def test_a_hundred_thousand_steps_make_a_small_page(report, tmp_path):
    """And so do a thousand resumes: the points and marks of a plot are bounded."""
    log = dataclasses.replace(
        log_of(100_000, 5, per_epoch=20_000),
        resumes=tuple({**RESUME, "step": 100 * number} for number in range(1, 1000)),
    )
    long = dataclasses.replace(report, log=log, setup=dataclasses.replace(report.setup, steps_per_epoch=20_000))
    page = pages(long, tmp_path)["training.html"]

    assert len(page) < 600_000
    for points in re.findall(r'points="([^"]*)"', page):
        assert len(points.split()) <= 600
    assert 'class="band' in page
    assert "its band reaches" in page
    assert "100,000" in page


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
    page = pages(report, tmp_path)["training.html"]

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
