"""`mgvr evaluate` of a TREC run: by qrels, or by a benchmark's own annotation file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.systems import SystemsReport
from pipelines.evaluate import EvaluateConfig, FiguresConfig, evaluate

pytestmark = pytest.mark.usefixtures("no_ray")

FAST = FiguresConfig(bootstrap=50)


def run_files(folder: Path, run: str, qrels: str, pool: str | None = None) -> EvaluateConfig:
    files = {"run": run, "qrels": qrels, **({} if pool is None else {"videos": pool})}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    given = {name: str(folder / name) for name in files}
    return EvaluateConfig(out=str(folder / "out"), report=FAST, **given)


RUN = "q1 Q0 a 1 2 t\nq1 Q0 b 2 1 t\nq2 Q0 b 1 2 t\nq9 Q0 b 1 2 t\n"
QRELS = "q1 0 b 1\nq2 0 c 1\nq3 0 a 1\n"


def test_a_run_of_short_lists_is_judged_over_the_pool_that_is_given(tmp_path: Path) -> None:
    found = evaluate(run_files(tmp_path, RUN, QRELS, pool="a\nb\nc\nd\n"))

    assert found is not None
    (system,) = found.systems
    assert (system.queries, system.pool, system.unanswerable) == (3, 4, 2)
    assert system.figures["MRR"].value == pytest.approx(0.5 / 3)
    assert system.figures["R@5"].value == pytest.approx(1 / 3)
    unjudged, silent, lost = found.warnings
    assert unjudged.startswith("1 queries of the run have no right video")
    assert silent.startswith("1 queries of the qrels have no list")
    assert lost.startswith("2 of 3 queries have no right video in their list")


SAMPLE = Path(__file__).resolve().parents[1] / "annotations" / "msrvtt" / "MSRVTT_JSFUSION_test.csv"


def by_sample(folder: Path, lists: dict[str, str]) -> SystemsReport:
    """A run judged by the four pairs of the sample: `{"ret0": "video9001 video9004"}`."""
    lines = [
        f"{query} Q0 {video} {rank} {-rank} t"
        for query, videos in lists.items()
        for rank, video in enumerate(videos.split(), start=1)
    ]
    (folder / "run.trec").write_text("\n".join(lines), encoding="utf-8")
    given = {"out": str(folder / "out"), "run": str(folder / "run.trec"), "report": FAST}
    found = evaluate(EvaluateConfig(**given, dataset="msrvtt-1ka", annotations=str(SAMPLE)))
    assert found is not None
    return found


def test_a_run_is_judged_by_a_benchmark_over_its_whole_pool(tmp_path: Path) -> None:
    lists = {"ret0": "video9001 video9004", "ret1": "video9001 video9004", "ret2": "video9001"}

    found = by_sample(tmp_path, lists)

    (system,) = found.systems
    assert (system.queries, system.pool) == (4, 4)
    assert [system.figures[f"R@{k}"].value for k in (1, 5, 10)] == [0.25, 0.5, 0.5]
    assert found.title == "MSR-VTT 1k-A: run.trec"
    assert found.protocol["pool"] == "4 videos; published: 1,000, so figures can't be compared"
    short, silent, missed, unlisted = found.warnings  # and none on training files, which the run was not made of
    assert short.startswith("MSRVTT_JSFUSION_test.csv has 4 of 1,000 videos")
    assert silent == "1 queries of the benchmark have no list in the run: they count as misses."
    assert missed.startswith("2 of 4 queries have no right video in their list")
    assert unlisted.startswith("2 of the pool's 4 videos are in no list of the run")


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"ret0": "video9001", "video9002": "video9002"}, r"run\.trec: 1 of 2 queries \('video9002'\) are none of .*"
         r"JSFUSION_test\.csv, which asks 'ret0', 'ret1', 'ret2' and 1 more\. .*judged by qrels"),
        ({"ret0": "video9001 video1 video2"}, r"2 of 3 videos \('video1', 'video2'\) are not in the pool of .*, which "
         "has 'video9001', 'video9004', 'video9002' and 1 more"),
        ({}, r"run\.trec has no lists"),
        ({"ret0": "video9001 video9001"}, "the list of query 'ret0' has the video 'video9001' twice"),
    ],
)  # fmt: skip
def test_a_run_of_other_ids_than_the_benchmarks_is_refused_with_some(
    tmp_path: Path, lists: dict[str, str], message: str
) -> None:
    with pytest.raises(MgvrError, match=message):
        by_sample(tmp_path, lists)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("run", "pool", "message"),
    [
        (RUN + "q2 Q0 b 2 1 t\n", None, "the list of query 'q2' has the video 'b' twice"),
        (RUN, "a\nc\n", "query 'q1' lists the video 'b', which .*videos does not have"),
    ],
)
def test_a_run_that_is_none_is_refused(tmp_path: Path, run: str, pool: str | None, message: str) -> None:
    with pytest.raises(MgvrError, match=message):
        evaluate(run_files(tmp_path, run, QRELS, pool))
