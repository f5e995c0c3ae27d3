from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgvr_core.datasets.benchmarks.benchmark import Benchmark, Protocol, Query
from mgvr_core.datasets.benchmarks.catalogue import read_benchmark
from mgvr_core.datasets.benchmarks.check import check, evaluation_rows, list_warnings, protocol_rows
from mgvr_core.datasets.benchmarks.files import stem
from mgvr_core.errors import MgvrError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"a video")
    return folder


def benchmark(videos: tuple[str, ...], pool: int, **fields: object) -> Benchmark:
    queries = tuple(Query(video, f"about {video}", (video,)) for video in videos)
    return Benchmark(Protocol("x", "X", "one", 32, 12, pool, "single captions"), videos, queries, **fields)


@pytest.mark.parametrize(
    ("video", "file"),
    [
        ("video7020", "all/TestVideo/video7020.mp4"),
        ("9001_THE_LAST_FERRY_00.23.23.000-00.23.28.886", "9001/9001_THE_LAST_FERRY_00.23.23.000-00.23.28.886.avi"),
        ("9001_THE_LAST_FERRY_00.23.23.000-00.23.28.886", "9001_THE_LAST_FERRY_00.23.23.000-00.23.28.886"),
        ("1@N01_4_ab", "1@N01_4_ab.3g2"),
        ("1@N01_4_ab", "1@N01_4_ab."),
        ("1@N01_4_ab", "1@N01_4_ab"),
        ("1@N01_4_ab", "1@N01_4_ab.MOV.mp4"),
        ("-dAsHdAsH12_000120_000130", "-dAsHdAsH12_000120_000130.webm"),
    ],
)
def test_a_file_is_found_by_its_name_with_or_without_endings(tmp_path, video, file):
    copy = check(benchmark((video,), 1), touch(tmp_path, file))
    assert copy.files == {video: str(tmp_path / file)}
    assert (copy.pool, copy.unanswerable, copy.warnings) == (1, 0, ())
    assert copy.summary() == ["test: 1 of 1 videos are there"]


def test_what_lies_beside_the_videos_is_no_video(tmp_path):
    touch(tmp_path, "a.txt", "a.npy", "a_mask.mp4", ".b.mp4", "a.mp4.part", "c.mp4")
    assert check(benchmark(("a", "b", "c"), 3), tmp_path).missing == {"test": ("a", "b")}


def test_missing_videos_shrink_the_pool_and_are_named(tmp_path):
    there = benchmark(("a", "b", "c", "d"), 4, train={"t": ("x",), "u": ("y",)})
    copy = check(there, touch(tmp_path, "d.mp4", "b.mp4", "t.mp4"))
    assert (copy.pool, copy.unanswerable) == (2, 2)
    assert copy.missing == {"test": ("a", "c"), "train": ("u",)}
    assert copy.summary() == [
        "test: 2 of 4 videos are there; missing: 2 videos (a, c)",
        "train: 1 of 2 videos are there; missing: 1 video (u)",
        "warning: the pool is 2 of 4 videos: figures can't be compared with published ones",
        "warning: 2 of 4 queries ask for missing videos: each counts as a miss",
    ]
    rows = protocol_rows(there, copy)
    assert rows["pool"] == "2 of 4 videos; published: 4, so figures can't be compared"
    assert rows["queries"] == "4; 2 ask for missing videos and count as misses, which common scripts drop"
    assert protocol_rows(there)["pool"] == "4 videos, as published"


def test_of_several_files_the_first_is_taken_and_said(tmp_path):
    copy = check(benchmark(("a",), 1), touch(tmp_path, "one/a.mp4", "two/a.mov"))
    assert copy.files == {"a": str(tmp_path / "one" / "a.mp4")}
    (warning,) = copy.warnings
    assert warning.startswith("several files for 1 video (a): the first is taken, as ")


def test_an_empty_file_is_a_missing_video_and_named_as_empty(tmp_path):
    """As a download leaves it that broke off, or a disk that was full."""
    touch(tmp_path, "c.mp4", "one/b.mp4")
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").touch()
    (tmp_path / "d.mp4").symlink_to("nowhere.mp4")
    copy = check(benchmark(("a", "b", "c", "d"), 4), tmp_path)
    assert (copy.missing["test"], copy.empty, copy.pool, copy.unanswerable) == (("a", "d"), ("a",), 2, 2)
    assert copy.files["b"] == str(tmp_path / "one" / "b.mp4")
    assert copy.warnings[0] == "empty files (0 bytes), which count as missing: 1 video (a). Fetch them again"
    mine = benchmark(("a", "c"), 0, uris={video: str(tmp_path / f"{video}.mp4") for video in ("a", "c")})
    assert check(mine).empty == check(mine).missing["test"] == ("a",)


def test_a_list_that_was_cut_short_is_said_with_both_numbers(tmp_path):
    videos = ("a", "b", "c")
    for pool, size in ((4, "3 of 4 videos"), (2, "3 videos and not 2")):
        cut = benchmark(videos, pool, files=(Path("list.csv"), Path("other.csv")))
        (said,) = list_warnings(cut)
        assert said.startswith(f"list.csv has {size}, so figures can't be compared with published ones")
        assert said in check(cut, touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")).warnings
    assert list_warnings(benchmark(videos, 3)) == list_warnings(benchmark(videos, 0)) == []


def test_what_is_there_to_train_with_is_no_rule_of_the_test(copied):
    folder = copied("msrvtt")
    nine, seven = (read_benchmark(name, folder) for name in ("msrvtt-1ka", "msrvtt-1ka-7k"))
    assert protocol_rows(nine)["training"].startswith("9k list: 4 videos")
    assert protocol_rows(seven)["training"].startswith("7k list: 3 videos")
    rules = evaluation_rows(nine)
    assert rules["benchmark"] == evaluation_rows(seven)["benchmark"] == "MSR-VTT 1k-A"
    assert {*protocol_rows(nine)} - {*rules} == {"training", "validation"}


def test_one_of_several_right_videos_is_enough(tmp_path):
    pair = Benchmark(benchmark((), 0).protocol, ("a", "b"), (Query("q", "both", ("a", "b")),))
    assert check(pair, touch(tmp_path, "b.mp4")).unanswerable == 0


def test_another_list_of_the_same_set_is_not_the_published_pool(copied):
    folder = copied("didemo")
    rows = protocol_rows(read_benchmark("didemo", folder / "didemo_ret_test.json"))
    assert rows["pool"] == "2 videos; published: 1,004, so figures can't be compared"
    assert rows["annotation files"].startswith("didemo_ret_test.json, train_data.json")


def test_a_manifest_says_itself_where_its_videos_are(copied, tmp_path):
    folder = copied("manifest")
    touch(folder, "clips/shop.mp4", "clips/mill.mp4")
    mine = read_benchmark("manifest", folder)
    copy = check(mine)
    assert copy.missing == {"test": ("quay",), "train": ()}
    assert protocol_rows(mine, copy)["pool"] == "2 of 3 videos"
    with pytest.raises(MgvrError, match="a manifest says itself where its videos are"):
        check(mine, tmp_path)


def test_a_folder_must_be_given_and_be_there(tmp_path):
    with pytest.raises(MgvrError, match="the folder of the videos is needed"):
        check(benchmark(("a",), 1))
    with pytest.raises(MgvrError, match="cannot list the folder"):
        check(benchmark(("a",), 1), tmp_path / "nowhere")


@given(st.from_regex(r"[A-Za-z0-9@_-]+", fullmatch=True), st.sampled_from(["", ".", ".mp4", ".3gp", ".m4v", ".webm"]))
def test_a_stem_is_the_name_without_its_ending(name, ending):
    assert stem(name + ending) == name
    assert stem(stem(name + ending)) == name
