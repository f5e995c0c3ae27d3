from __future__ import annotations

import json

import pytest

from mgvr_core.datasets.benchmarks.benchmark import Query
from mgvr_core.datasets.benchmarks.catalogue import read_benchmark


def test_a_pair_is_a_query_under_its_key_even_if_its_sentence_repeats(copied):
    benchmark = read_benchmark("msrvtt-1ka", copied("msrvtt"))
    assert benchmark.queries == (
        Query("ret0", "a kite is tied to a red fence", ("video9001",)),
        Query("ret1", "two beekeepers open a hive", ("video9004",)),
        Query("ret2", "a potter shapes a bowl, then breaks it", ("video9002",)),
        Query("ret3", "a kite is tied to a red fence", ("video9003",)),
    )
    assert benchmark.videos == ("video9001", "video9004", "video9002", "video9003")


def test_the_protocols_of_1k_a_differ_in_their_training_list(copied):
    folder = copied("msrvtt")
    nine, seven = (read_benchmark(name, folder) for name in ("msrvtt-1ka", "msrvtt-1ka-7k"))
    assert list(nine.train) == ["video1", "video2", "video10", "video9000"]
    assert list(seven.train) == ["video1", "video10", "video2"]
    assert nine.train["video10"] == ("a choir of frogs on a bridge at night", "a choir of frogs seen from above")
    assert (nine.queries, nine.videos) == (seven.queries, seven.videos)
    assert (nine.protocol.training_list, seven.protocol.training_list) == ("9k", "7k")


def test_the_json_list_holds_the_same_pairs_as_the_csv(copied):
    folder = copied("msrvtt")
    table, listed = (
        read_benchmark("msrvtt-1ka", folder / name) for name in ("MSRVTT_JSFUSION_test.csv", "msrvtt_ret_test.json")
    )
    assert [(query.text, query.relevant) for query in table.queries] == [
        (query.text, query.relevant) for query in listed.queries
    ]
    assert [query.id for query in listed.queries] == list(listed.videos) == list(table.videos)
    (folder / "MSRVTT_JSFUSION_test.csv").unlink()
    assert read_benchmark("msrvtt-1ka", folder).queries == listed.queries


def test_every_caption_of_the_full_split_is_a_query(copied):
    benchmark = read_benchmark("msrvtt-full", copied("msrvtt"))
    assert benchmark.videos == ("video9001", "video9004", "video9002", "video9003", "video9000")
    assert len(benchmark.queries) == 10
    assert benchmark.queries[2:4] == (
        Query("video9004#0", "a beekeeper on a bridge at night", ("video9004",)),
        Query("video9004#1", "a beekeeper seen from above", ("video9004",)),
    )
    assert list(benchmark.train) == ["video1", "video2"]
    assert list(benchmark.validation) == ["video10"]  # what neither list names
    assert any("not 20 captions each: 5 videos (video9001" in note for note in benchmark.notes)


def test_the_official_files_in_two_parts_are_the_same_captions(copied):
    folder = copied("msrvtt")
    whole = read_benchmark("msrvtt-full", folder)
    document = json.loads((folder / "MSRVTT_data.json").read_text(encoding="utf-8"))
    for name, split in (("train_val_videodatainfo.json", "train"), ("test_videodatainfo.json", "test")):
        videos = [video for video in document["videos"] if video["split"] == split]
        ids = {video["video_id"] for video in videos}
        sentences = [sentence for sentence in document["sentences"] if sentence["video_id"] in ids]
        (folder / name).write_text(json.dumps({"videos": videos, "sentences": sentences}), encoding="utf-8")
    (folder / "MSRVTT_data.json").unlink()
    parts = read_benchmark("msrvtt-full", folder)
    assert (parts.queries, parts.train, parts.validation) == (whole.queries, whole.train, whole.validation)


def test_without_training_captions_the_test_is_there_and_a_note(copied):
    folder = copied("msrvtt")
    (folder / "MSRVTT_data.json").unlink()
    benchmark = read_benchmark("msrvtt-1ka", folder)
    assert (len(benchmark.queries), benchmark.train) == (4, {})
    assert benchmark.training_notes == (
        "no MSRVTT_data.json: the 4 training videos of MSRVTT_train.9k.csv have no captions",
    )
    assert benchmark.notes == ()  # no figure of the test depends on it


PAIRS, TRAIN, TEST, DATA = (
    *("MSRVTT_JSFUSION_test.csv", "MSRVTT_train.9k.csv"),
    *("MSRVTT_test.full.csv", "MSRVTT_data.json"),
)


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "says"),
    [
        ("msrvtt-1ka", PAIRS, "sentence\n", "text\n", " has no column 'sentence', but key, vid_key, video_id, t"),
        ("msrvtt-1ka", PAIRS, ",two beekeepers open a hive", ", ", ", line 3: the caption is empty"),
        ("msrvtt-1ka", PAIRS, ",video9004,", ",,", ", line 3: a caption without its key or its video_id"),
        ("msrvtt-1ka", PAIRS, "video9004", "video9001", ": the video 'video9001' is there twice"),
        ("msrvtt-1ka", PAIRS, "ret1,", "ret0,", ": the query 'ret0' is there twice"),
        ("msrvtt-1ka", TRAIN, "video10\n", "video1\n", ", line 4: the video 'video1' is in line 2 already"),
        ("msrvtt-1ka", TRAIN, "video_id\n", "id\n", " has no column 'video_id', but id"),
        ("msrvtt-full", DATA, '"caption"', '"text"', ", sentence 0: has no 'caption', but text, video_id"),
        ("msrvtt-full", DATA, '"sentences"', '"annotations"', ", top level: has no 'sentences', but info, videos, ann"),
        ("msrvtt-full", DATA, '"video_id": "video9001",\n   "sen', '"video_id": "video5",\n   "sen',
         ", sentence 4: a caption without a video: 'video5' is not under `videos`"),
        ("msrvtt-full", DATA, "}", "", " is not valid JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_file_and_place(copied, refusal, name, file, old, new, says):
    folder = copied("msrvtt")
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new), encoding="utf-8")
    assert f"{folder / file}{says}" in refusal(name, folder)


def test_lists_that_do_not_go_together_are_refused(copied, refusal):
    folder = copied("msrvtt")
    (folder / TRAIN).write_text("video_id\nvideo1\nvideo9002\n", encoding="utf-8")
    assert f"{folder / PAIRS}: 1 video (video9002) of the test split are in the training split" in refusal(
        "msrvtt-1ka", folder
    )
    (folder / TEST).write_text("video_id\nvideo9001\nvideo77\n", encoding="utf-8")
    assert f"{folder / DATA} has no caption for 1 video (video77), which {TEST} lists" in refusal("msrvtt-full", folder)


def test_the_wrong_file_is_refused(copied, refusal):
    folder = copied("msrvtt")
    assert "has no column 'key'" in refusal("msrvtt-1ka", folder / "MSRVTT_train.9k.csv")
    assert "must hold a list of {video, caption}" in refusal("msrvtt-1ka", folder / "MSRVTT_data.json")
    (folder / "MSRVTT_JSFUSION_test.csv").unlink()
    (folder / "msrvtt_ret_test.json").unlink()
    assert "has no MSRVTT_JSFUSION_test.csv and no msrvtt_ret_test.json" in refusal("msrvtt-1ka", folder)


def test_the_real_1k_a_has_the_published_counts(annotations):
    benchmark = read_benchmark("msrvtt-1ka", annotations / "msrvtt")
    assert len(benchmark.queries) == len(benchmark.videos) == benchmark.protocol.pool == 1000
    assert len({query.text for query in benchmark.queries}) == 995
    assert (benchmark.queries[2].id, benchmark.queries[2].relevant) == ("ret2", ("video7020",))


def test_the_real_training_and_test_lists_go_together(annotations, tmp_path):
    """MSRVTT_data.json was not to be had: the lists are tried with invented captions of 10,000 videos."""
    for file in (annotations / "msrvtt").iterdir():
        (tmp_path / file.name).symlink_to(file)
    videos = [f"video{number}" for number in range(10_000)]
    sentences = [{"caption": f"a scene in {video}", "video_id": video, "sen_id": 0} for video in videos]
    document = {"videos": [{"video_id": video} for video in videos], "sentences": sentences}
    (tmp_path / "MSRVTT_data.json").write_text(json.dumps(document), encoding="utf-8")
    sizes = {
        name: (len(benchmark.videos), len(benchmark.train), len(benchmark.validation))
        for name in ("msrvtt-1ka", "msrvtt-1ka-7k", "msrvtt-full")
        for benchmark in [read_benchmark(name, tmp_path)]
    }
    assert sizes == {"msrvtt-1ka": (1000, 9000, 0), "msrvtt-1ka-7k": (1000, 7010, 0), "msrvtt-full": (2990, 6513, 497)}
