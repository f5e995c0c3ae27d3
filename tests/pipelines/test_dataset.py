from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mgvr_core.datasets.benchmarks.benchmark import Benchmark
from mgvr_core.datasets.manifest import CorpusConfig, list_videos
from mgvr_core.datasets.queries import QueriesConfig, read_queries
from mgvr_core.errors import MgvrError
from mgvr_core.identity import hash_file
from pipelines.dataset import DatasetConfig, dataset, run
from pipelines.measuring import ReportConfig

SAMPLES = Path(__file__).resolve().parents[1] / "annotations"


@pytest.fixture
def videos(tmp_path: Path) -> Callable[..., Path]:
    """A folder with a file for each name: what is in it is never read here."""

    def make(*names: str) -> Path:
        folder = tmp_path / "videos"
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_bytes(b"a video")
        return folder

    return make


def prepare(name: str, annotations: Path, out: Path, videos: Path | None = None) -> tuple[Benchmark, dict]:
    folder = None if videos is None else str(videos)
    benchmark = dataset(DatasetConfig(name=name, annotations=str(annotations), videos=folder, out=str(out)))
    return benchmark, json.loads((out / "dataset.json").read_text(encoding="utf-8"))


def listed(file: Path) -> dict[str, dict]:
    return {row["id"]: row for row in list_videos(CorpusConfig(uri=str(file))).to_pylist()}


def test_the_other_jobs_read_what_it_writes(tmp_path, videos):
    names = (
        "video1.mp4",
        "video2.mp4",
        "video10.mp4",
        "video9001.mp4",
        "video9002.mp4",
        "video9003.avi",
        "video9004.mp4",
    )
    folder, out = videos(*names), tmp_path / "out"
    benchmark, about = prepare("msrvtt-1ka", SAMPLES / "msrvtt", out, folder)
    test, train = listed(out / "test.jsonl"), listed(out / "train.jsonl")
    assert set(test) == set(benchmark.videos)
    assert test["video9003"]["uri"] == str(folder / "video9003.avi")
    assert test["video9003"]["captions"] == ["a kite is tied to a red fence"]
    # video9000 of the training list is not there
    assert {video: tuple(row["captions"]) for video, row in train.items()} == {
        video: texts for video, texts in benchmark.train.items() if video != "video9000"
    }
    queries = read_queries(QueriesConfig(uri=str(out / "test-queries.jsonl"))).to_pylist()
    assert queries == [
        {"id": query.id, "text": query.text, "relevant": list(query.relevant)} for query in benchmark.queries
    ]
    assert about["written"] == ["test.jsonl", "train.jsonl", "test-queries.jsonl"]
    assert not (out / "validation.jsonl").exists()
    assert about["check"]["missing"] == {"test": [], "train": ["video9000"]}


def test_a_missing_video_leaves_the_pool_and_its_queries_stay_as_misses(tmp_path, videos, capsys):
    folder, out = videos("Tt_uVwXyZ12_30_41.avi"), tmp_path / "out"
    benchmark, about = prepare("msvd", SAMPLES / "msvd", out, folder)
    assert list(listed(out / "test.jsonl")) == ["Tt_uVwXyZ12_30_41"]
    assert read_queries(QueriesConfig(uri=str(out / "test-queries.jsonl"))).num_rows == len(benchmark.queries) == 5
    assert about["check"]["pool"] == 1
    assert about["check"]["published_pool"] == 670
    assert about["check"]["unanswerable_queries"] == 3
    assert about["check"]["missing"]["test"] == ["aB-3_xYz01k_5_15"]
    assert about["protocol"]["pool"] == "1 of 2 videos; published: 670, so figures can't be compared"
    printed = capsys.readouterr().out
    assert "warning: the pool is 1 of 670 videos: figures can't be compared with published ones" in printed
    assert "warning: 3 of 5 queries ask for missing videos: each counts as a miss" in printed


def test_it_reads_again_what_it_wrote(tmp_path, videos):
    """Also of a copy that lacks videos: those queries are kept, and the manifest's reader says so."""
    folder, first = videos("Tt_uVwXyZ12_30_41.avi", "-kLmNoPqRs0_0_9.avi"), tmp_path / "first"
    before, _ = prepare("msvd", SAMPLES / "msvd", first, folder)
    after, about = prepare("manifest", first, tmp_path / "second")
    assert after.queries == before.queries
    assert after.train == {"-kLmNoPqRs0_0_9": before.train["-kLmNoPqRs0_0_9"]}
    assert about["notes"] == ["queries that ask for videos that test.jsonl lacks, each a miss: 3 of 5"]
    for name in ("test.jsonl", "train.jsonl", "test-queries.jsonl"):
        assert (tmp_path / "second" / name).read_bytes() == (first / name).read_bytes()


def test_spans_go_to_the_manifest(tmp_path, videos):
    folder = videos("11111111@N01_4000000001_abcdef0123.mov")
    prepare("didemo", SAMPLES / "didemo", tmp_path / "out", folder)
    (row,) = listed(tmp_path / "out" / "test.jsonl").values()
    assert (row["start"], row["end"]) == (0.0, 31.0)
    mine = tmp_path / "mine.csv"
    mine.write_text(f"id,uri,caption,start\na,{folder / '11111111@N01_4000000001_abcdef0123.mov'},a hill,2\n")
    prepare("manifest", mine, tmp_path / "other")
    (row,) = listed(tmp_path / "other" / "test.jsonl").values()
    assert (row["start"], row["end"]) == (2.0, None)


def test_without_videos_the_annotations_are_read_and_no_manifest_is_left(tmp_path, videos, capsys):
    folder, out = videos("9001_THE_LAST_FERRY_00.23.23.000-00.23.28.886.avi"), tmp_path / "out"
    prepare("lsmdc", SAMPLES / "lsmdc", out, folder)
    assert (out / "test.jsonl").exists()
    _, about = prepare("lsmdc", SAMPLES / "lsmdc", out)
    assert sorted(file.name for file in out.iterdir()) == ["dataset.json", "test-queries.jsonl"]
    assert about["check"] is None
    assert about["counts"] == {
        "test": {"videos": 3, "queries": 3},
        "train": {"videos": 2, "captions": 3},
        "validation": {"videos": 1, "captions": 1},
    }
    assert "videos: not looked for" in capsys.readouterr().out


def test_the_annotation_files_are_known_by_their_hashes(tmp_path):
    folder = Path(shutil.copytree(SAMPLES / "activitynet", tmp_path / "annotations"))
    _, before = prepare("activitynet", folder, tmp_path / "out")
    assert before["annotations"]["val_1.json"] == hash_file(folder / "val_1.json")
    assert set(before["annotations"]) == {"val_1.json", "val_ids.json", "train.json", "train_ids.json"}


def test_a_copy_without_a_single_test_video_is_refused(tmp_path, videos):
    with pytest.raises(
        MgvrError, match=r"no video of the test split is there below .*: looked for names such as Tt_uV"
    ):
        prepare("msvd", SAMPLES / "msvd", tmp_path / "out", videos("other.mp4"))
    assert not (tmp_path / "out").exists()


def test_a_copy_of_empty_files_is_refused_as_that(tmp_path, videos):
    folder = videos()
    (folder / "Tt_uVwXyZ12_30_41.avi").touch()
    with pytest.raises(MgvrError, match=r"no video of the test split is there .*, and 1 of the files are empty"):
        prepare("msvd", SAMPLES / "msvd", tmp_path / "out", folder)


def test_a_list_that_was_cut_short_is_a_warning_with_and_without_videos(tmp_path, videos, capsys):
    cut = "MSRVTT_JSFUSION_test.csv has 4 of 1,000 videos, so figures can't be compared with published ones"
    _, alone = prepare("msrvtt-1ka", SAMPLES / "msrvtt", tmp_path / "out")
    assert f"warning: {cut}" in capsys.readouterr().out
    folder = videos("video9001.mp4")
    (folder / "video9002.mp4").touch()
    _, checked = prepare("msrvtt-1ka", SAMPLES / "msrvtt", tmp_path / "out", folder)
    assert alone["warnings"][0] == checked["warnings"][0]
    assert alone["warnings"][0].startswith(cut)
    assert checked["warnings"] == checked["check"]["warnings"]
    assert checked["check"]["empty"] == ["video9002"]


def test_it_never_writes_over_what_it_reads(tmp_path, videos):
    folder, out = videos("Tt_uVwXyZ12_30_41.avi"), tmp_path / "out"
    prepare("msvd", SAMPLES / "msvd", out, folder)
    before = (out / "test.jsonl").read_bytes()
    with pytest.raises(MgvrError, match=r"holds test.jsonl, which is read: choose another folder"):
        prepare("manifest", out, out)
    assert (out / "test.jsonl").read_bytes() == before


def test_the_command_takes_the_name_as_a_word_or_an_option_or_from_a_file(tmp_path, capsys):
    options = ["--annotations", str(SAMPLES / "lsmdc"), "--out", str(tmp_path / "out")]
    assert run(["lsmdc", *options]) == 0
    assert run(["--name", "lsmdc", *options]) == 0
    job = tmp_path / "job.yaml"
    job.write_text(f"name: lsmdc\nannotations: {SAMPLES / 'lsmdc'}\nout: {tmp_path / 'out'}\n", encoding="utf-8")
    assert run([str(job)]) == 0
    assert capsys.readouterr().out.count("LSMDC 2016, public test") == 3


def test_the_command_refuses_with_2_and_names_the_nearest(tmp_path, capsys):
    assert run(["lsmcd", "--annotations", "x", "--out", str(tmp_path)]) == 2
    assert "no benchmark of this name; did you mean lsmdc?" in capsys.readouterr().err
    assert run(["lsmdc", "--annotations", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "has no LSMDC16_challenge_1000_publictect.csv" in capsys.readouterr().err


def test_reports_show_the_protocol_and_refuse_a_file_that_has_none(tmp_path):
    _, about = prepare("lsmdc", SAMPLES / "lsmdc", tmp_path / "out")
    assert ReportConfig(dataset=str(tmp_path / "out/dataset.json")).protocol() == about["protocol"]
    assert ReportConfig().protocol() == {}
    report = ReportConfig(dataset=str(tmp_path / "out/dataset.json"))
    queries, videos = (about["counts"]["test"][name] for name in ("queries", "videos"))
    assert report.foreign(queries, videos, {32}, {12}) == []
    (warning,) = report.foreign(queries, videos + 1, {24, 32}, {12})
    assert f"videos in the pool: {videos + 1} here, {videos} there; text tokens: 24, 32 here, 32 there" in warning
    for wrong in ("test-queries.jsonl", "nothing.json"):
        with pytest.raises(MgvrError, match=rf"report.dataset: .*{wrong} is no dataset.json"):
            ReportConfig(dataset=str(tmp_path / "out" / wrong)).protocol()
