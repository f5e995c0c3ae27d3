from __future__ import annotations

import json

from mgvr_core.datasets.benchmarks.benchmark import Query
from mgvr_core.datasets.benchmarks.catalogue import read_benchmark


def test_all_sentences_of_a_video_are_one_query_in_the_order_of_the_ids(copied):
    benchmark = read_benchmark("activitynet", copied("activitynet"))
    assert benchmark.queries == (
        Query("v_aaaaaaaaaa2", "A dog sleeps on a drum.", ("v_aaaaaaaaaa2",)),
        Query("v_aaaaaaaaaa1", "A juggler bows. She drops all of her clubs.", ("v_aaaaaaaaaa1",)),
    )
    assert benchmark.train["v_bbbbbbbbbb1"] == ("Snow falls. A plough passes.",)
    assert (benchmark.protocol.words, benchmark.protocol.frames) == (64, 64)


def test_ids_without_sentences_are_named(copied):
    folder = copied("activitynet")
    (folder / "train_ids.json").write_text('["v_bbbbbbbbbb2", "v_b", "v_bbbbbbbbbb1"]', encoding="utf-8")
    benchmark = read_benchmark("activitynet", folder)
    (note,), (training,) = benchmark.notes, benchmark.training_notes
    assert training == "train_ids.json: left out, without sentences in train.json: 1 video (v_b)"
    assert note == "val_ids.json: left out, without sentences in val_1.json: 1 video (v_aaaaaaaaaa3)"


def test_another_file_is_named_in_title_and_note(copied):
    folder = copied("activitynet")
    (folder / "val_1.json").rename(folder / "val_2.json")
    protocol = read_benchmark("activitynet", folder / "val_2.json").protocol
    assert protocol.title == "ActivityNet Captions, val_2"
    assert protocol.note == "val_2.json was given as the test split, and published figures are over val_1.json"


def test_without_the_ids_the_order_is_that_of_the_captions(copied):
    folder = copied("activitynet")
    (folder / "val_ids.json").unlink()
    assert read_benchmark("activitynet", folder).videos == ("v_aaaaaaaaaa1", "v_aaaaaaaaaa2")


def test_what_is_wrong_is_named_with_its_file_and_video(copied, refusal):
    folder = copied("activitynet")
    file = folder / "val_1.json"
    assert "holds a list of ids" not in refusal("activitynet", folder / "val_ids.json")
    assert "val_ids.json must hold {timestamps, sentences} by video" in refusal("activitynet", folder / "val_ids.json")
    (folder / "val_ids.json").write_text('["v_aaaaaaaaaa1"]', encoding="utf-8")
    assert f"{file}, 'v_aaaaaaaaaa2': val_ids.json does not list this video" in refusal("activitynet", folder)
    (folder / "val_ids.json").unlink()
    file.write_text(json.dumps({"v_x": {"sentences": ["One.", "  "]}}), encoding="utf-8")
    assert f"{file}, 'v_x', caption 1: the caption is empty" in refusal("activitynet", folder)
    file.write_text(json.dumps({"v_x": {"duration": 3}}), encoding="utf-8")
    assert f"{file}, 'v_x': has no 'sentences', but duration" in refusal("activitynet", folder)
    file.write_text(json.dumps({"v_bbbbbbbbbb1": {"sentences": ["One."]}}), encoding="utf-8")
    assert "1 video (v_bbbbbbbbbb1) of the test split are in the training split too" in refusal("activitynet", folder)


def test_the_real_files_have_the_published_counts(annotations):
    benchmark = read_benchmark("activitynet", annotations / "activitynet")
    assert len(benchmark.videos) == len(benchmark.queries) == benchmark.protocol.pool == 4917
    assert len(benchmark.train) == 10_009
    assert "val_1.json: 9 videos (" in benchmark.notes[0]
    ids = json.loads((annotations / "activitynet" / "val_ids.json").read_text(encoding="utf-8"))
    assert benchmark.videos == tuple(video for video in ids if video in set(benchmark.videos))
