from __future__ import annotations

import json
import pickle

from mgvr_core.datasets.benchmarks.benchmark import Query
from mgvr_core.datasets.benchmarks.catalogue import read_benchmark


def test_every_caption_is_a_query_also_one_that_repeats(copied):
    benchmark = read_benchmark("msvd", copied("msvd"))
    assert benchmark.videos == ("Tt_uVwXyZ12_30_41", "aB-3_xYz01k_5_15")
    assert benchmark.queries[1:] == (
        Query("Tt_uVwXyZ12_30_41#1", "a man bakes bread", ("Tt_uVwXyZ12_30_41",)),
        Query("aB-3_xYz01k_5_15#0", "a heron waits in the reeds", ("aB-3_xYz01k_5_15",)),
        Query("aB-3_xYz01k_5_15#1", "a bird is waiting", ("aB-3_xYz01k_5_15",)),
        Query("aB-3_xYz01k_5_15#2", "a bird is waiting", ("aB-3_xYz01k_5_15",)),
    )
    assert {video: len(texts) for video, texts in benchmark.train.items()} == {
        "-kLmNoPqRs0_0_9": 1,
        "AsDfGhJkLq4_12_20": 2,
    }
    assert list(benchmark.validation) == ["QwErTyUiOp3_7_8"]
    assert "groups" in benchmark.protocol.video_to_text


def test_the_pickle_of_words_holds_the_same_captions(copied):
    folder = copied("msvd")
    expected = read_benchmark("msvd", folder)
    captions = json.loads((folder / "captions_msvd.json").read_text(encoding="utf-8"))
    words = {video: [text.split() for text in texts] for video, texts in captions.items()}
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps(words))
    (folder / "captions_msvd.json").unlink()
    found = read_benchmark("msvd", folder)
    assert (found.queries, found.train, found.validation) == (expected.queries, expected.train, expected.validation)


class Harm:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_is_read_as_data_and_never_run(copied, refusal, capsys):
    folder = copied("msvd")
    (folder / "captions_msvd.json").unlink()
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps({"aB-3_xYz01k_5_15": [Harm()]}))
    assert "raw-captions.pkl is not a pickle of plain captions: it names builtins.print" in refusal("msvd", folder)
    assert capsys.readouterr().out == ""


def test_lists_and_captions_must_go_together(copied, refusal):
    folder = copied("msvd")
    (folder / "train_list.txt").write_text("-kLmNoPqRs0_0_9\nnobody_0_1\n", encoding="utf-8")
    benchmark = read_benchmark("msvd", folder)
    assert list(benchmark.train) == ["-kLmNoPqRs0_0_9"]
    unlisted = "captions_msvd.json: left out, because none of the three lists names them: 1 video (AsDfGhJkLq4_12_20)"
    assert benchmark.training_notes == (
        "train_list.txt: left out, without a caption in captions_msvd.json: 1 video (nobody_0_1)",
        unlisted,
    )
    (folder / "val_list.txt").unlink()
    assert unlisted not in read_benchmark("msvd", folder).training_notes  # of two lists nothing follows
    (folder / "test_list.txt").write_text("nobody_0_1\n", encoding="utf-8")
    assert "captions_msvd.json has no caption for 1 video (nobody_0_1), which test_list.txt lists" in refusal(
        "msvd", folder
    )
    (folder / "test_list.txt").write_text("aB-3_xYz01k_5_15\n\naB-3_xYz01k_5_15\n", encoding="utf-8")
    assert "line 3: the video 'aB-3_xYz01k_5_15' is listed in line 1 already" in refusal("msvd", folder)
    assert 'line 1: \'{"aB-3_xYz01k_5_15":' in refusal("msvd", folder / "captions_msvd.json")


def test_bad_captions_are_named_with_their_video(copied, refusal):
    folder = copied("msvd")
    file = folder / "captions_msvd.json"
    file.write_text('{"a_0_1": ["one"], "a_0_1": ["two"]}', encoding="utf-8")
    assert f"{file} has the key 'a_0_1' twice" in refusal("msvd", folder)
    file.write_text('{"a_0_1": ["one", " "]}', encoding="utf-8")
    assert f"{file}, 'a_0_1', caption 1: the caption is empty" in refusal("msvd", folder)
    file.write_text('{"a_0_1": []}', encoding="utf-8")
    assert f"{file}, 'a_0_1': must hold a list of captions, not '[]'" in refusal("msvd", folder)
    file.write_bytes('{"a_0_1": ["café"]}'.encode("latin-1"))
    assert f"{file} is not UTF-8 text" in refusal("msvd", folder)


def test_the_real_files_have_the_published_counts(annotations):
    benchmark = read_benchmark("msvd", annotations / "msvd")
    sizes = [len(benchmark.train), len(benchmark.validation), len(benchmark.videos)]
    captions = sum(len(texts) for split in (benchmark.train, benchmark.validation) for texts in split.values())
    assert sizes == [1200, 100, 670]
    assert captions + len(benchmark.queries) == 80_827
    assert benchmark.notes == benchmark.training_notes == ()
