from __future__ import annotations

import json

from mgvr_core.datasets.benchmarks.catalogue import read_benchmark

TRAM, HAT, HARBOUR = (
    "11111111@N01_4000000001_abcdef0123",
    "22222222@N02_4000000002_0123abcdef",
    "33333333@N03_4000000003_fedcba9876",
)


def test_all_moments_of_a_video_are_one_query_whatever_its_ending(copied):
    benchmark = read_benchmark("didemo", copied("didemo"))
    assert {query.id: query.text for query in benchmark.queries} == {
        TRAM: "the tram turns left the tram is empty.",
        HAT: "a hat blows away",
        HARBOUR: "we first see the harbour",
    }
    assert benchmark.videos == (TRAM, HAT, HARBOUR)
    assert benchmark.train == {"55555555@N05_4000000005_dd22ee33ff": ("lights go out lights come on",)}
    assert list(benchmark.validation) == ["44444444@N04_4000000004_aa00bb11cc"]
    assert "1 of the 3 videos stand under several endings" in benchmark.notes[1]


def test_only_the_seconds_that_were_annotated_are_read(copied):
    benchmark = read_benchmark("didemo", copied("didemo"))
    assert set(benchmark.spans) == {*benchmark.videos, *benchmark.train, *benchmark.validation}
    assert set(benchmark.spans.values()) == {(0.0, 31.0)}


def test_the_joined_list_is_another_pool_and_another_order(copied):
    benchmark = read_benchmark("didemo", copied("didemo") / "didemo_ret_test.json")
    assert benchmark.videos == (HAT, TRAM)
    assert benchmark.queries[1].text == "the tram is empty. the tram turns left"


def test_what_is_wrong_is_named_with_its_file_and_entry(copied, refusal):
    folder = copied("didemo")
    file = folder / "test_data.json"
    cases = {
        "entry 1: has no 'video', but description": [{"video": "a.mp4", "description": "x"}, {"description": "y"}],
        "entry 0: the caption is empty": [{"video": "a.mp4", "description": ""}],
        "entry 0: has neither 'description' nor 'caption', but video": [{"video": "a.mp4"}],
        "entry 1: has no 'description', but video": [{"video": "a.mp4", "description": "x"}, {"video": "b.mp4"}],
        "entry 0: has no 'caption', but video": [{"video": "a.mp4"}, {"video": "b.mp4", "caption": ["x"]}],
        "entry 0: the video 'a' has no caption": [{"video": "a.mp4", "caption": []}],
        "entry 1: the video 'a' is there already": [
            {"video": f"a.{ending}", "caption": "x"} for ending in ("mp4", "mov")
        ],
        "entry 0: is no JSON object": ["a.mp4"],
        "entry 0: the video's id must be text, not 7": [{"video": 7, "description": "x"}],
    }
    for says, document in cases.items():
        file.write_text(json.dumps(document), encoding="utf-8")
        assert f"{file}, {says}" in refusal("didemo", folder)
    file.write_text("{}", encoding="utf-8")
    assert f"{file} must hold a list of moments" in refusal("didemo", folder)


def test_the_real_files_have_the_published_counts(annotations):
    moments = read_benchmark("didemo", annotations / "didemo")
    assert len(moments.videos) == len(moments.queries) == moments.protocol.pool == 1004
    assert len(moments.validation) == 1065
    joined = read_benchmark("didemo", annotations / "didemo" / "didemo_ret_test.json")
    assert len(joined.videos) == 1003
    assert set(joined.videos) < set(moments.videos)
