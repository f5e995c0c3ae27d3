"""`mgvr evaluate`: a matrix's figures, its files for other tools, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pyarrow.parquet as pq
import pytest
from ir_measures import RR, Success, nDCG

from mgvr_core.config import load
from mgvr_core.datasets.queries import QueriesConfig
from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.systems import System, SystemsReport
from pipelines import evaluate as job
from pipelines.evaluate import EvaluateConfig, FiguresConfig, evaluate

pytestmark = pytest.mark.usefixtures("no_ray")

VIDEOS, CAPTIONS = 12, 3
DUAL_SOFTMAX = "dual softmax (transductive: reads the other test queries); beta 100"
FAST = FiguresConfig(bootstrap=50)


class World:
    """Twelve videos with three captions each, and a matrix that is right about half of the time."""

    def __init__(self, folder: Path, captions: int = CAPTIONS) -> None:
        self.folder = folder
        self.videos = [f"video {number}" for number in range(VIDEOS)]
        self.rows = [
            {"id": f"{video}#{part}", "text": f"caption {part} of {video}", "relevant": video}
            for video in self.videos
            for part in range(captions)
        ]
        random = np.random.default_rng(5)
        self.scores = random.normal(size=(len(self.rows), VIDEOS)).astype(np.float32) * 0.1
        self.scores[np.arange(len(self.rows)), np.arange(len(self.rows)) // captions] += 0.08
        self.save()

    def save(self, **changed: Any) -> None:
        folder = self.folder
        np.save(folder / "s.npy", changed.get("scores", self.scores))
        lines = [json.dumps(row) for row in changed.get("rows", self.rows)]
        (folder / "q.jsonl").write_text("\n".join(lines), encoding="utf-8")
        (folder / "v.txt").write_text("\n".join(changed.get("videos", self.videos)), encoding="utf-8")

    def config(self, **more: Any) -> EvaluateConfig:
        folder = self.folder
        given = {
            "out": str(folder / "out"),
            "similarity": str(folder / "s.npy"),
            "queries": QueriesConfig(uri=str(folder / "q.jsonl")),
            "videos": str(folder / "v.txt"),
            "report": FAST,
        }
        return EvaluateConfig(**{key: value for key, value in {**given, **more}.items() if value is not None})

    def report(self, **more: Any) -> SystemsReport:
        found = evaluate(self.config(**more))
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def figures(system: System) -> list[float]:
    return [round(100 * system.figures[f"R@{k}"].value, 1) for k in (1, 5, 10)]


def judged(folder: Path) -> dict[str, float]:
    """What an outside judge finds of the files that were written."""
    found = ir_measures.calc_aggregate(
        [Success @ 1, Success @ 5, Success @ 10, RR, nDCG @ 10],
        list(ir_measures.read_trec_qrels(str(folder / "qrels.trec"))),
        list(ir_measures.read_trec_run(str(folder / "run.trec"))),
    )
    names = {"Success@1": "R@1", "Success@5": "R@5", "Success@10": "R@10", "RR": "MRR", "nDCG@10": "nDCG@10"}
    return {names[str(measure)]: value for measure, value in found.items()}


def test_the_real_matrix_by_its_annotation_file(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluate(
        EvaluateConfig(
            out=str(tmp_path),
            similarity=str(shared / "features" / "msrvtt_1ka_similarity.npy"),
            dataset="msrvtt-1ka",
            annotations=str(shared / "annotations" / "msrvtt" / "MSRVTT_JSFUSION_test.csv"),
            corrections=({"kind": "dual_softmax"},),
            top=10,
            report=FAST,
        )
    )

    assert report is not None
    raw, lifted, back, lifted_back = report.systems
    assert (figures(raw), figures(lifted)) == ([48.0, 73.0, 82.9], [52.8, 78.0, 85.8])
    assert (lifted.name, lifted.transductive, raw.transductive) == (DUAL_SOFTMAX, True, False)
    assert lifted.gain["R@1"].value == pytest.approx(0.048)
    assert [back.direction, lifted_back.direction] == ["video_to_text"] * 2
    assert report.protocol["pool"] == "1,000 videos, as published"
    assert (report.title, report.warnings) == ("MSR-VTT 1k-A: msrvtt_1ka_similarity.npy", ())
    assert "training" not in report.protocol  # a matrix does not say by what it was trained
    # Five captions repeat: from videos to texts they tie, and the usual scripts count each tie as a further rank.
    assert back.ties is not None
    assert back.ties.queries == 9
    assert back.note.endswith("As the usual scripts print: 1,012 ranks of 1,000 queries.")
    assert back.compatible["R@1"] < back.figures["R@1"].value
    assert raw.compatible == pytest.approx({name: raw.figures[name].value for name in raw.compatible})
    shown = capsys.readouterr().out
    assert "52.8    78.0    85.8" in shown
    assert "as the usual scripts print" in shown
    assert "1,000 videos, as published" in shown


def test_an_outside_judge_finds_the_same_in_the_files(world: World) -> None:
    raw = world.report().systems[0]

    assert judged(world.folder / "out") == pytest.approx(
        {name: raw.figures[name].value for name in ("R@1", "R@5", "R@10", "MRR", "nDCG@10")}
    )
    assert raw.compatible["MnR"] == pytest.approx(raw.figures["MnR"].value)


def test_the_run_that_it_writes_has_the_figures_of_the_matrix(world: World) -> None:
    matrix = world.report()
    out = world.folder / "out"

    run = evaluate(
        EvaluateConfig(
            out=str(world.folder / "again"), run=str(out / "run.trec"), qrels=str(out / "qrels.trec"), report=FAST
        )
    )

    assert run is not None
    assert run.systems[0].figures == matrix.systems[0].figures
    assert (run.systems[0].pool, run.warnings, run.interval_unit) == (VIDEOS, (), "group")


def test_several_captions_a_video_are_ranked_in_groups_and_singly(world: World) -> None:
    report = world.report()

    names = [(system.direction, system.name, system.queries, system.pool) for system in report.systems]
    assert names == [
        ("text_to_video", "raw", 36, 12),
        ("video_to_text", "raw", 12, 12),
        ("video_to_text", "raw, single captions", 12, 36),
    ]
    assert report.interval_unit == "group"
    groups, single = report.systems[1:]
    assert "not a recall and rerank of its own" in groups.note
    assert "not to be compared" in single.note
    assert groups.figures["R@1"] == single.figures["R@1"]  # the best caption of all is the first of either
    assert groups.figures["MnR"].value < single.figures["MnR"].value
    assert (set(groups.compatible), set(single.compatible)) == ({"R@1", "R@5", "R@10", "MdR", "MnR"}, set())


def test_every_rank_is_in_a_table(world: World) -> None:
    report = world.report(corrections=({"kind": "sinkhorn"},))
    table = pq.read_table(world.folder / "out" / "ranks.parquet")

    assert table.column_names == ["system", "direction", "query", "rank"]
    for system in report.systems:
        mine = [
            row for row in table.to_pylist() if (row["system"], row["direction"]) == (system.name, system.direction)
        ]
        asking = world.videos if system.direction == "video_to_text" else [row["id"] for row in world.rows]
        assert [row["query"] for row in mine] == asking
        assert np.mean([row["rank"] for row in mine]) == pytest.approx(system.figures["MnR"].value)


def test_a_bank_corrects_text_to_video_alone_and_is_not_transductive(world: World) -> None:
    random = np.random.default_rng(0)
    np.save(world.folder / "bank.npy", random.normal(size=(7, VIDEOS)).astype(np.float16))

    report = world.report(corrections=({"kind": "qb_norm"}, {"kind": "sinkhorn"}), bank=str(world.folder / "bank.npy"))

    corrected = [system for system in report.systems if system.gain]
    assert [system.direction for system in corrected] == ["text_to_video"] * 2
    assert all("bank of training captions" in system.name and not system.transductive for system in corrected)


def test_rows_without_a_right_video_are_left_out_and_lost_videos_are_misses(world: World) -> None:
    rows = [dict(row) for row in world.rows]
    rows[0] = {"id": "plain", "text": "only a search"}
    rows[1]["relevant"] = "elsewhere"
    world.save(rows=rows)

    report = world.report()

    raw = report.systems[0]
    assert (raw.queries, raw.unanswerable, raw.compatible) == (35, 1, {})
    assert report.warnings == ("1 of 36 queries name no right video: they are not measured.",)
    written = (world.folder / "out" / "run.trec").read_text(encoding="utf-8")
    assert "plain" not in written
    expected = world.scores[1:].argmax(axis=1)
    firsts = [line.split()[2] for line in written.splitlines() if line.split()[3] == "1"]
    assert firsts == [world.videos[column].replace(" ", "%20") for column in expected]


def test_nan_is_named_and_only_the_usual_scripts_pass_it_over(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, captions=1)
    scores = np.eye(VIDEOS, dtype=np.float32)
    scores[3, 3] = np.nan
    world.save(scores=scores)

    with pytest.raises(MgvrError, match=r"row 3 \(video 3#0\) and column 3 \(video 3\).*--compatible_only true"):
        evaluate(world.config())
    assert not (tmp_path / "out").exists()
    assert evaluate(world.config(out=None, compatible_only=True)) is None
    shown = capsys.readouterr().out
    assert "Text to video" in shown
    assert "11 ranks of 12 queries" in shown
    assert "100.0" in shown


def test_nan_is_named_by_the_row_of_the_file_and_in_what_is_measured_only(tmp_path: Path) -> None:
    """Whatever queries before it are left out, and whatever their rows hold."""
    world = World(tmp_path, captions=1)
    rows = [dict(row) for row in world.rows]
    for left in (0, 2):
        del rows[left]["relevant"]
    scores = world.scores.copy()
    scores[2, 5] = scores[3, 4] = np.nan
    world.save(rows=rows, scores=scores)

    message = r"row 3 \(video 3#0\) and column 4 \(video 4\).*; 1 of 120 in the 10 rows that are measured are NaN"
    with pytest.raises(MgvrError, match=message):
        evaluate(world.config())


def test_a_matrix_of_another_shape_is_refused_with_both_shapes(world: World) -> None:
    world.save(scores=world.scores.T)

    with pytest.raises(MgvrError, match=r"s\.npy is 12 x 36, but .*q\.jsonl .*36 queries .* transposed"):
        evaluate(world.config())


def test_ids_of_another_kind_are_refused(world: World) -> None:
    world.save(videos=[f"{video}.mp4" for video in world.videos])

    with pytest.raises(MgvrError, match=r"no right video is in the pool: 'video 0' .* begins with 'video 0.mp4'"):
        evaluate(world.config())


def test_the_columns_may_be_a_table_and_a_list_names_no_video_twice(world: World) -> None:
    lines = [json.dumps({"id": row["relevant"], "uri": "x.mp4"}) for row in world.rows]
    (world.folder / "v.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert world.report(videos=str(world.folder / "v.jsonl")).systems[0].pool == VIDEOS

    world.save(videos=[*world.videos, "video 3"])
    with pytest.raises(MgvrError, match=r"v\.txt, line 13: the video 'video 3' comes twice"):
        evaluate(world.config())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either similarity"),
        ({"similarity": "s.npy", "run": "r"}, "either similarity"),
        ({"similarity": "s.npy"}, "does not say what it is of"),
        ({"similarity": "s.npy", "dataset": "msvd"}, "belong together: give both, or queries.uri"),
        (
            {"similarity": "s.npy", "dataset": "msvd", "annotations": "a", "videos": "v"},
            "videos does nothing with a data",
        ),
        ({"similarity": "s.npy", "queries.uri": "q"}, "does not say what it is of"),
        ({"run": "r"}, "qrels: a run needs them"),
        ({"run": "r", "dataset": "msvd"}, "belong together: give both, or qrels"),
        ({"run": "r", "qrels": "q", "dataset": "msvd", "annotations": "a"}, "qrels does nothing with a dataset"),
        ({"similarity": "s.npy", "qrels": "q"}, "qrels does nothing with a matrix"),
    ],
)
def test_contradictions_are_refused_before_a_file_is_opened(given: dict[str, str], message: str) -> None:
    with pytest.raises(MgvrError, match=message):
        load(EvaluateConfig, None, {"out": "o", **given})


WHOLE = {"out": "o", "similarity": "s.npy", "queries.uri": "q", "videos": "v"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"corrections": "[{kind: qb_norm}]"}, "reads a bank"),
        ({"corrections": "[{kind: dual_softmax}]", "bank": "b.npy"}, "only the corrections qb_norm and sinkhorn"),
        ({"corrections": "[{kind: sinkhorn}, {kind: sinkhorn}]"}, "the same one twice"),
        ({"compatible_only": "true"}, "out does nothing with compatible_only"),
    ],
)
def test_what_would_do_nothing_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(MgvrError, match=message):
        load(EvaluateConfig, None, {**WHOLE, **given})


def test_a_matrix_needs_a_place_for_its_report() -> None:
    with pytest.raises(MgvrError, match="out: name the folder"):
        load(EvaluateConfig, None, {name: value for name, value in WHOLE.items() if name != "out"})


def test_the_command_line_says_what_is_wrong_and_exits_with_2(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world.folder
    words = ["--queries.uri", str(folder / "q.jsonl"), "--videos", str(folder / "v.txt"), "--out", str(folder / "out")]

    assert job.run(["--similarity", str(folder / "gone.npy"), *words]) == 2
    assert "mgvr evaluate: cannot read" in capsys.readouterr().err
