"""Systems side by side: as files that programs read, and pages that people open."""

import csv
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from pages import EVIL, Page, read, require_text_in_markdown, require_text_on_page

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.bootstrap import Gain, Interval
from mgvr_core.evaluation.report import Manifest, StageTime, Ties
from mgvr_core.evaluation.systems import Expectation, System, SystemsReport
from mgvr_core.evaluation.systems_pages import write_systems
from mgvr_core.evaluation.systems_plots import COSTS, pareto_front, paretos, place_labels
from mgvr_core.evaluation.systems_wording import (
    APART,
    CORRECTED,
    MEANINGS,
    columns,
    notes,
    ranking,
    sections,
    short,
    verdict,
)


def spread(value, by=0.03):
    return Interval(value, max(0.0, value - by), min(1.0, value + by))


def system(name, rate, **more):
    figures = {
        "R@1": spread(rate),
        "R@5": spread(min(1.0, rate + 0.25)),
        "R@10": spread(min(1.0, rate + 0.35)),
        "MdR": Interval(2.0, 2.0, 3.0),
        "MRR": spread(rate + 0.1),
    }
    return System(name, {"scorer": name, "k": "50"}, queries=1000, pool=990, figures=figures, **more)


@pytest.fixture(scope="module")
def report():
    rows = (
        system("mean pool", 0.43, macs=500_000, seconds=0.02, bytes=1024, groups="b"),
        system(
            "TIB frame",
            0.4512,
            macs=7_000_000,
            seconds=1.5,
            bytes=12 * 1024,
            groups="ab",
            gain={"R@1": Gain(0.0212, 0.004, 0.039, 0.01)},
            recall_at_k=spread(0.93),
            ties=Ties(3, {"R@1": 0.452}, {"R@1": 0.45}),
            expected=(Expectation("R@1", 0.451, 0.001, 0.4512), Expectation("R@5", 0.75, 0.01, 0.7012)),
        ),
        system("DRL", 0.44, macs=90_000_000, seconds=9.0, bytes=12 * 1024, groups="ab", parameters=525_000),
        system(
            "dual softmax", 0.528, macs=500_000, transductive=True, groups="a", compatible={"R@1": 0.531, "MdR": 1.0}
        ),
        dataclasses.replace(system("mean pool", 0.41, unanswerable=2), direction="video_to_text"),
    )
    return SystemsReport(
        title="Scorers",
        created="2026-11-25T10:12:00+00:00",
        systems=rows,
        manifest=Manifest("mgvr sweep x.yaml", {"k": 50}, {"features": "0123abcd"}, {"mgvr": "1.0"}, {"cpu": "2"}, 7),
        protocol={"captions a video": "1"},
        baseline="mean pool",
        summary="Every scorer.",
        warnings=("10 videos are missing.",),
        hubs=(("mean pool", "video7", 31, 1),),
        files={"ranks.parquet": "the rank of every query"},
        stages=(StageTime("score", 12.0),),
    )


def pages(report, folder):
    return read(write_systems(report, folder))


def test_five_files_and_the_json_comes_back_as_the_same_report(report, tmp_path):
    texts = pages(report, tmp_path / "new")

    assert sorted(texts) == ["systems.csv", "systems.html", "systems.json", "systems.md", "systems.tex"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(texts)
    assert SystemsReport.from_json(texts["systems.json"]) == report


def test_what_is_not_a_number_is_refused_by_its_key_and_no_file_is_touched(report, tmp_path):
    broken = dataclasses.replace(report, systems=(dataclasses.replace(report.systems[0], seconds=float("nan")),))

    with pytest.raises(MgvrError, match=re.escape("systems[0].seconds is nan")):
        write_systems(broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_sound_and_asks_for_nothing(report, tmp_path):
    html = pages(report, tmp_path)["systems.html"]
    page = Page(html)

    assert page.open == []
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(page.tags)
    assert [value for name, value in page.attributes if name in ("href", "src")] == ["./ranks.parquet"]
    assert not re.search(r"url\(|@import", html)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes


def test_both_pages_show_every_figure(report, tmp_path):
    texts = pages(report, tmp_path)
    expected = [
        *("45.1", "42.1–48.1", "70.1", "80.1", "+2.1", "+0.4 to +3.9", "93.0", "7 M", "1.5 s", "12.0 KiB", "525 K"),
        *("990", "captions a video", "transductive", "53.1", "video7", "31", "10 videos are missing.", "45.10 ± 0.1"),
        *("−4.88", "FAIL", "1 of 2 expected figures have drifted", "tie for 3 of the queries", "mgvr sweep x.yaml"),
        *(
            "0123abcd",
            "counted as misses",
            "12.0 s",
            "at a time: TIB frame",
            "can't tell it apart from 2 of the other 2",
        ),
    ]
    for name in ("systems.html", "systems.md"):
        plain = texts[name].replace("&#39;", "'")
        assert [text for text in expected if text not in plain] == []


def test_what_was_not_measured_has_no_column(report, tmp_path):
    bare = dataclasses.replace(report, systems=(system("one", 0.5), system("two", 0.4)))

    assert [column.name for column in columns(bare.systems)] == ["R@1", "R@5", "R@10", "MdR"]
    text = pages(bare, tmp_path)["systems.html"].split("</style>")[-1]
    assert not re.search(
        "Multiply-adds|Stage-1 ceiling|Parameters|What it costs|field.s scripts|Expected figures", text
    )


@pytest.mark.parametrize(
    ("groups", "said"), [("", ""), ("a", "a"), ("ab", "ab"), ("acd", "acd"), ("abcdfh", "a–d f h"), ("xyzA", "x–z A")]
)
def test_runs_of_letters_are_drawn_together(groups, said):
    assert short(groups) == said


def test_every_expected_figure_met_is_ok(report, tmp_path):
    kept = dataclasses.replace(report.systems[1], expected=report.systems[1].expected[:1])
    text = pages(dataclasses.replace(report, systems=(kept,)), tmp_path)["systems.md"]

    assert "OK: all 1 expected figures" in text
    assert "FAIL" not in text


def test_a_transductive_row_is_never_called_the_best_nor_on_the_front(report):
    section = sections(report)[0]

    assert verdict(section, report).startswith("Highest R@1 of those that read one query at a time: TIB frame")
    assert all(row.system.name != "dual softmax" for plot in paretos(section) for row in plot.front)


def test_transductive_rows_stand_apart(report, tmp_path):
    """Without a letter, with a gain that is no good news, and below the others in the ranking."""
    kept = dataclasses.replace(report.systems[3], gain={"R@1": Gain(0.098, 0.06, 0.13, 0.001)})
    section = sections(dataclasses.replace(report, systems=(kept, *report.systems[:3])))[0]
    shown = {column.name: column.cell(kept) for column in columns(section.systems)}

    above, apart = ranking(section)

    assert shown["Group"] is None
    assert (shown["Gain in R@1"].value, shown["Gain in R@1"].tone) == ("+9.8", "")
    assert [place.row.system.name for place in above] == ["TIB frame", "DRL", "mean pool"]
    assert [place.row.system.name for place in apart] == ["dual softmax"]
    html = pages(report, tmp_path)["systems.html"].split("Ranking by R@1")[1]
    assert html.index("TIB frame") < html.index(APART) < html.index("dual softmax")


def test_bounds_of_ties_that_print_the_same_are_not_said(report):
    ties = Ties(3, {"R@1": 0.452, "R@5": 0.70001}, {"R@1": 0.45, "R@5": 0.7})
    tied = dataclasses.replace(report, systems=(system("x", 0.45, ties=ties),))
    same = dataclasses.replace(report, systems=(system("x", 0.45, ties=Ties(1, {"R@1": 0.45001}, {"R@1": 0.45})),))

    (said,) = notes(sections(tied)[0])

    assert said.endswith("for the right one: R@1 45.0 to 45.2.")
    assert list(notes(sections(same)[0])) == []


def test_the_cost_of_a_correction_is_said_to_be_left_out(report, tmp_path):
    assert CORRECTED not in pages(report, tmp_path)["systems.md"]
    rows = [*report.systems[:3], dataclasses.replace(report.systems[3], settings={"correction": "dual"})]
    texts = pages(dataclasses.replace(report, systems=tuple(rows)), tmp_path)
    assert CORRECTED in texts["systems.tex"]
    for text in (texts["systems.md"], texts["systems.html"].replace("&#39;", "'")):
        assert CORRECTED in text
        assert MEANINGS["Stored"] in text.replace("\\_", "_")


def test_one_system_is_no_systems(report, tmp_path):
    texts = pages(dataclasses.replace(report, systems=report.systems[:1]), tmp_path)

    for name in ("systems.html", "systems.md"):
        assert re.search(r"· 1 system\b", texts[name])


def test_the_csv_has_every_figure_in_full(report, tmp_path):
    rows = list(csv.DictReader(io.StringIO(pages(report, tmp_path)["systems.csv"])))

    assert len(rows) == len(report.systems)
    assert float(rows[1]["R@1"]) == 0.4512
    assert (float(rows[1]["gain R@1 low"]), float(rows[1]["gain R@1 p"])) == (0.004, 0.01)
    assert (rows[1]["multiply-adds"], rows[1]["drifted"], rows[3]["transductive"]) == ("7000000", "1", "True")
    assert rows[0]["recall at k"] == ""
    assert rows[2]["setting scorer"] == "DRL"


def test_the_latex_is_a_table_in_which_names_are_text(report, tmp_path):
    named = dataclasses.replace(report, systems=(dataclasses.replace(report.systems[1], name="a_b & 50 % $x$"),))
    text = pages(named, tmp_path)["systems.tex"]

    assert r"a\_b \& 50 \% \$x\$ & 45.1 {\scriptsize [42.1--48.1]}" in text
    assert text.count(r"\toprule") == text.count(r"\end{table}") == 1
    (body,) = re.findall(r"\\midrule\n(.*)\n\\bottomrule", text)
    assert len(re.findall(r"(?<!\\)&", body)) == len(columns(named.systems))


def everywhere(report, text):
    """The report with `text` in every place that a user or a file name can reach."""
    named = {text: text}
    rows = [
        dataclasses.replace(each, name=text, settings={text: text, "n": str(number)}, note=text, compatible={text: 0.5})
        for number, each in enumerate(report.systems)
    ]
    return dataclasses.replace(
        report,
        title=text,
        summary=text,
        systems=tuple(rows),
        protocol=named,
        baseline=text,
        warnings=(text,),
        hubs=((text, text, 3, 0),),
        files=named,
        stages=(StageTime(text, 1.0),),
        manifest=Manifest(text, named, named, named, named),
    )


def test_text_from_outside_is_text_on_both_pages(report, tmp_path):
    require_text_on_page(pages(everywhere(report, EVIL), tmp_path)["systems.html"])
    require_text_in_markdown(pages(everywhere(report, EVIL + "\n# heading\n| cell |"), tmp_path)["systems.md"])


def points(rates, costs):
    rows = [system("s", float(rate), macs=int(cost)) for rate, cost in zip(rates, costs, strict=True)]
    (section,) = sections(SystemsReport("t", "2026-11-25T10:12:00+00:00", tuple(rows), Manifest("", {}, {}, {}, {})))
    return section, [(row, float(row.system.macs), row.system.figures["R@1"].value) for row in section.rows]


def test_the_front_is_what_nothing_beats():
    generator = np.random.default_rng(0)
    _, known = points(generator.uniform(0.2, 0.6, 60), 10 ** generator.uniform(3, 9, 60))

    front = pareto_front(known)

    def beaten(one):
        return any(other[1] <= one[1] and other[2] >= one[2] and other is not one for other in known)

    assert [one[0].number for one in sorted(known, key=lambda one: one[1]) if not beaten(one)] == [
        one[0].number for one in front
    ]


@pytest.mark.parametrize("crowd", [1.0, 0.05])
def test_the_numbers_of_forty_systems_cover_neither_each_other_nor_a_point(crowd):
    generator = np.random.default_rng(1)
    places = generator.uniform((50, 20), (50 + 380 * crowd, 20 + 230 * crowd), size=(40, 2)).tolist()

    labels = place_labels([(x, y, str(number)) for number, (x, y) in enumerate(places, 1)])

    boxes = [label.box for label in labels if label is not None]
    dots = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    for number, one in enumerate(boxes):
        for other in [*boxes[:number], *dots]:
            assert one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]
    assert labels[0] is not None
    assert len(boxes) >= (40 if crowd == 1 else 10)


@pytest.mark.parametrize(
    ("rates", "costs"), [([0.4, 0.4], [7, 7]), ([0.0, 1.0], [1, 10**15]), ([0.3, 0.4], [999, 1001])]
)
def test_any_two_systems_can_be_drawn(rates, costs):
    section, _ = points(rates, costs)

    (plot,) = paretos(section)

    assert str(plot.svg).count("<circle") == 2
    assert not re.search("nan|inf", str(plot.svg))
    assert len(re.findall('text-anchor="middle">[^<]', str(plot.svg))) >= 4  # two ticks, a number, the axis


def test_a_page_of_forty_systems_is_small(report, tmp_path):
    """It opens at once, whatever the number of queries: nothing in it is a query's."""
    generator = np.random.default_rng(0)
    rows = tuple(
        system(f"scorer {number}", rate, macs=10**6 + number, seconds=1.0 + number, bytes=1000 * (number + 1))
        for number, rate in enumerate(generator.uniform(0.3, 0.5, 40))
    )

    written = write_systems(dataclasses.replace(report, systems=rows), tmp_path)

    assert written["systems.html"].stat().st_size < 120_000
    assert len(COSTS) == 3 == written["systems.html"].read_text().count("On the front: ")
    assert len(json.loads(written["systems.json"].read_text())["systems"]) == 40
