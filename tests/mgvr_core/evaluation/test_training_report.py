"""The report of a training run, from the log's lines to the pages."""

import dataclasses
import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import EVIL, Page, read, require_text_in_markdown, require_text_on_page
from training_logs import RESUME, SCORES, epoch, log_of, report, step

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.bootstrap import Interval
from mgvr_core.evaluation.training_page import Selection
from mgvr_core.evaluation.training_report import Fusion, TrainingLog, read_log, write_training_report

__all__ = ["report"]


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
    return read(write_training_report(report, folder))


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
    require_text_on_page(pages(everywhere(report, EVIL), tmp_path)["training.html"])


def test_text_from_outside_is_text_in_markdown(report, tmp_path):
    text = pages(everywhere(report, EVIL + "\n# heading\n| cell |"), tmp_path)["training.md"]
    prose = require_text_in_markdown(text)

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
