"""The report as a file that programs read and pages that people open."""

import csv
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from pages import EVIL, Page, read, require_text_in_markdown, require_text_on_page

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.comparison import compare
from mgvr_core.evaluation.metrics import positions_from_scores
from mgvr_core.evaluation.render import write_report
from mgvr_core.evaluation.report import SCHEMA, Directions, Example, Hit, HubVideo, Report

LOADS = {"src", "href", "srcset", "data", "poster", "action", "background", "xlink:href"}


def pages(report, folder):
    return read(write_report(report, folder))


def plain_search(report):
    hits = tuple(dataclasses.replace(hit, right=None) for hit in report.examples[0].hits)
    example = Example("search", "q1", "a red circle", hits)
    return dataclasses.replace(report, metrics=None, examples=(example,), protocol={}, hubs=())


def test_the_files_and_nothing_else(report, tmp_path):
    written = write_report(report, tmp_path / "new" / "folder")

    assert sorted(written) == ["report.csv", "report.html", "report.json", "report.md", "report.tex"]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == sorted(written.values())
    assert sorted(write_report(plain_search(report), tmp_path)) == ["report.html", "report.json", "report.md"]


def test_the_csv_has_every_figure_in_full(report, tmp_path):
    rows = list(csv.DictReader(io.StringIO(pages(report, tmp_path)["report.csv"])))
    found = {(row["direction"], row["list"], row["metric"]): row for row in rows}

    direction = report.metrics.text_to_video
    mrr = found["text_to_video", "two-stage", "MRR"]
    assert [float(mrr[key]) for key in ("value", "low", "high")] == list(
        dataclasses.astuple(direction.two_stage["MRR"])
    )
    assert float(found["text_to_video", "score TIB_frame", "R@5"]["value"]) == direction.two_stage["R@5"].value
    gain = found["video_to_text", "two-stage minus coarse", "R@1"]
    assert (float(gain["value"]), float(gain["p"])) == (direction.gain["R@1"].value, direction.gain["R@1"].p_value)
    assert (gain["queries"], gain["pool"], gain["k"]) == ("120", "40", "10")


def test_the_latex_has_a_table_for_each_direction_with_its_pool(report, tmp_path):
    text = pages(report, tmp_path)["report.tex"]

    assert text.count(r"\toprule") == text.count(r"\end{table}") == 2
    assert r"score TIB\_frame & " in text
    assert text.count("120 queries, pool of 40, 10 candidates reranked") == 2
    assert "% Right videos a query: 1" in text
    assert {len(re.findall("(?<!\\\\)&", line)) for line in text.splitlines() if line.endswith(r"\\")} == {5}


def test_coarse_and_two_stage_stand_side_by_side_in_the_json(report, tmp_path):
    direction = json.loads(pages(report, tmp_path)["report.json"])["metrics"]["text_to_video"]

    expected = report.metrics.text_to_video
    for system in ("coarse", "two_stage"):
        for name in ("R@1", "R@5", "R@10", "MdR", "MnR", "MRR", "nDCG@10"):
            assert direction[system][name] == dataclasses.asdict(getattr(expected, system)[name])
    assert direction["gain"]["R@1"]["low"] == expected.gain["R@1"].low
    assert direction["recall_at_k"]["value"] == expected.recall_at_k.value


def test_the_json_comes_back_as_the_same_report(report):
    assert Report.from_json(report.to_json()) == report
    assert Report.from_json(plain_search(report).to_json()) == plain_search(report)


def test_what_is_not_a_number_is_refused_by_its_key_and_no_file_is_touched(report, tmp_path):
    broken = dataclasses.replace(report, stages=(dataclasses.replace(report.stages[0], seconds=float("nan")),))

    with pytest.raises(MgvrError, match=re.escape("stages[0].seconds is nan")):
        write_report(broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["[]", "{", '{"title": "x"}'])
def test_another_file_is_not_a_report(text):
    with pytest.raises(MgvrError, match="not a retrieval report"):
        Report.from_json(text)


def test_a_newer_schema_is_refused_by_number(report):
    with pytest.raises(MgvrError, match=f"schema {SCHEMA + 1}"):
        Report.from_json(dataclasses.replace(report, schema=SCHEMA + 1).to_json())


def test_unknown_keys_of_a_later_writer_are_passed_over(report):
    assert Report.from_json(json.dumps({**json.loads(report.to_json()), "later": 1})) == report


def test_the_page_is_sound_and_asks_for_nothing(report, tmp_path):
    page = Page(pages(report, tmp_path)["report.html"])

    assert page.open == []  # every tag closed, in order
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert {value.split(":")[0] if ":" in value else value[:2] for name, value in page.attributes if name in LOADS} <= {
        "data",  # thumbnails
        "./",  # the files beside the page, which a reader may follow
    }
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes


def test_no_style_reaches_out(report, tmp_path):
    assert not re.search(r"url\(|@import", pages(report, tmp_path)["report.html"])


def everywhere(report, text):
    """The report with `text` in every place that a user or a file name can reach."""
    named = {text: text}
    direction = report.metrics.text_to_video
    direction = dataclasses.replace(direction, note=text, scores={text: direction.coarse})
    return dataclasses.replace(
        report,
        title=text,
        summary=text,
        metrics=dataclasses.replace(report.metrics, text_to_video=direction),
        manifest=dataclasses.replace(
            report.manifest, command=text, configuration=named, fingerprints=named, versions=named, hardware=named
        ),
        stages=(dataclasses.replace(report.stages[0], name=text),),
        warnings=(text,),
        files=named,
        examples=(Example("win", text, text, (Hit(text, 1, 1, True, text), Hit(text, 2, 2)), 1, 1),),
        examples_note=text,
        thumbnails={text: text},
        protocol=named,
        hubs=(HubVideo(text, 3, 0),),
    )


def test_text_from_outside_is_text_on_the_page(report, tmp_path):
    require_text_on_page(pages(everywhere(report, EVIL), tmp_path)["report.html"])


def test_text_from_outside_is_text_in_markdown(report, tmp_path):
    text = pages(everywhere(report, EVIL + "\n# heading\n| cell |"), tmp_path)["report.md"]
    prose = require_text_in_markdown(text)

    for line in prose.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line))
        assert cells in (0, 3, 4, 5, 6), line


def test_the_verdict_says_whether_the_gain_excludes_zero(report, tmp_path):
    direction = report.metrics.text_to_video
    unsure = dataclasses.replace(direction.gain["R@1"], low=-0.01)
    doubtful = dataclasses.replace(direction, gain={**direction.gain, "R@1": unsure})
    doubtful = dataclasses.replace(report, metrics=dataclasses.replace(report.metrics, text_to_video=doubtful))

    for name in ("report.html", "report.md"):
        clear, open_ = (pages(one, tmp_path)[name].split("Video to text")[0] for one in (report, doubtful))
        assert "The interval excludes 0" in clear
        assert "The interval includes 0" not in clear
        assert "The interval includes 0" in open_
        assert "−1.0 to" in open_


def test_both_pages_show_every_figure(report, tmp_path):
    texts = pages(report, tmp_path)
    direction = report.metrics.text_to_video
    expected = [
        *(f"{100 * one[name].value:.1f}" for one in (direction.coarse, direction.two_stage) for name in ("R@1", "R@5")),
        f"{direction.two_stage['nDCG@10'].value:.3f}",
        f"{100 * direction.recall_at_k.value:.1f}",
        "1 of 120 (0.8 %), counted as misses",
        "3 of 120 (2.5 %)",
        "9 of 900 (1.0 %)",
        "1 min 15 s",
        "816 M",
        "50×",
        "TIB",
        "Captions are ranked one by one.",
        "3 captions are too long.",
        "Right videos a query",
        "31",
        "mgvr retrieve --k 10",
        "0123456789abcdef",
    ]
    for name in ("report.html", "report.md"):
        assert [text for text in expected if text not in texts[name]] == []


def test_the_right_video_is_marked(report, tmp_path):
    html = pages(report, tmp_path)["report.html"]

    assert html.count('<li class="right">') == 1
    assert "clip &lt;1&gt;" in html
    assert report.thumbnails["v1"] in html


def test_a_plain_search_has_results_and_no_metrics(report, tmp_path):
    texts = pages(plain_search(report), tmp_path)

    for name in ("report.html", "report.md"):
        assert "a red circle" in texts[name]
        assert not re.search(r"R@|MRR|MdR|nDCG|ceiling|Unanswerable|rank of", texts[name].split("</style>")[-1])
    assert report.thumbnails["v1"] in texts["report.html"]
    assert json.loads(texts["report.json"])["metrics"] is None


def test_one_direction_alone_is_a_report(report, tmp_path):
    alone = dataclasses.replace(report, metrics=dataclasses.replace(report.metrics, video_to_text=None))

    assert "Video to text" not in pages(alone, tmp_path)["report.html"]


def test_the_page_does_not_grow_with_the_queries(report, tmp_path):
    """Only the chosen examples are in it, however many queries were measured."""
    scores = np.random.default_rng(0).normal(size=(10_000, 40))
    positions = positions_from_scores(scores, [[query % 40] for query in range(10_000)])
    direction = compare(positions, positions, k=10, samples=20)
    many = dataclasses.replace(report, queries=10_000, metrics=Directions(direction, direction))

    small, large = (pages(one, tmp_path) for one in (report, many))

    assert {name: len(large[name]) < len(small[name]) + 500 for name in large} == dict.fromkeys(large, True)
