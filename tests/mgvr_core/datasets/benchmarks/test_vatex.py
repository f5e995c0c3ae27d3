from __future__ import annotations

import json

from mgvr_core.datasets.benchmarks.catalogue import read_benchmark


def test_english_captions_are_queries_and_tested_videos_leave_validation(copied):
    benchmark = read_benchmark("vatex", copied("vatex"))
    assert benchmark.videos == ("_uNdErSc0r_000000_000010", "h0mE-MaDe_1_000004_000014")
    assert [query.id for query in benchmark.queries[:2]] == [
        "_uNdErSc0r_000000_000010#0",
        "_uNdErSc0r_000000_000010#1",
    ]
    assert all(query.text.isascii() for query in benchmark.queries)
    assert list(benchmark.train) == ["zZ9yY8xX7w6_000031_000041", "pLuMb1nG_00_000008_000018"]
    assert list(benchmark.validation) == ["-dAsHdAsH12_000120_000130"]
    (note,) = benchmark.training_notes
    assert note == "left out of validation, because test_list.txt names them: 1 video (h0mE-MaDe_1_000004_000014)"


def test_the_three_shapes_of_captions_say_the_same(copied):
    folder = copied("vatex")
    expected = read_benchmark("vatex", folder)
    captions = json.loads((folder / "vatex_data.json").read_text(encoding="utf-8"))
    (folder / "vatex_data.json").unlink()
    records = [{"videoID": video, **texts} for video, texts in captions.items()]
    for name, part in (("vatex_training_v1.0.json", records[:2]), ("vatex_validation_v1.0.json", records[2:])):
        (folder / name).write_text(json.dumps(part), encoding="utf-8")
    released = read_benchmark("vatex", folder)
    plain = {video: texts["enCap"] for video, texts in captions.items()}
    (folder / "ref_captions.json").write_text(json.dumps(plain), encoding="utf-8")
    listed = read_benchmark("vatex", folder)
    assert released.queries == listed.queries == expected.queries
    assert released.train == listed.train == expected.train
    assert {"vatex_training_v1.0.json", "vatex_validation_v1.0.json"} <= {file.name for file in released.files}
    assert "vatex_training_v1.0.json" not in {file.name for file in listed.files}


def test_of_two_test_lists_the_user_says_which(copied, refusal):
    folder = copied("vatex")
    (folder / "test1k5_sec_list.txt").write_text("-dAsHdAsH12_000120_000130\n", encoding="utf-8")
    assert "holds both test lists that are in use" in refusal("vatex", folder)
    other = read_benchmark("vatex", folder / "test1k5_sec_list.txt")
    assert other.videos == ("-dAsHdAsH12_000120_000130",)
    assert "the test list is test1k5_sec_list.txt" in other.notes[0]
    assert len(read_benchmark("vatex", folder / "test_list.txt").videos) == 2


def test_the_captions_must_be_there(copied, refusal):
    folder = copied("vatex")
    text = (folder / "vatex_data.json").read_text(encoding="utf-8")
    (folder / "vatex_data.json").write_text(text.replace("enCap", "caps"), encoding="utf-8")
    assert "'h0mE-MaDe_1_000004_000014': has no 'enCap', but caps, chCap" in refusal("vatex", folder)
    (folder / "vatex_data.json").unlink()
    assert "has no captions, neither vatex_data.json nor" in refusal("vatex", folder)


def test_the_real_lists_go_together(annotations, tmp_path):
    """No captions were to be had: the lists are tried with invented ones."""
    ids = set()
    for file in (annotations / "vatex").iterdir():
        (tmp_path / file.name).symlink_to(file)
        ids |= set(file.read_text(encoding="utf-8").split())
    captions = {video: [f"a scene in {video}"] for video in sorted(ids)}
    (tmp_path / "ref_captions.json").write_text(json.dumps(captions), encoding="utf-8")
    hgr, other = (read_benchmark("vatex", tmp_path / name) for name in ("test_list.txt", "test1k5_sec_list.txt"))
    assert [len(hgr.train), len(hgr.validation), len(hgr.videos)] == [25_991, 1500, 1500]
    assert [len(other.train), len(other.validation), len(other.videos)] == [25_991, 724, 1500]
    assert len({*hgr.videos} & {*other.videos}) == 724
