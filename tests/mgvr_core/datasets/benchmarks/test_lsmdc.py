from __future__ import annotations

from mgvr_core.datasets.benchmarks.catalogue import read_benchmark

FERRY = "9001_THE_LAST_FERRY_00.23.23.000-00.23.28.886"


def test_a_clip_has_one_sentence_with_its_quotes(copied):
    benchmark = read_benchmark("lsmdc", copied("lsmdc"))
    assert benchmark.videos[0] == benchmark.queries[0].id == FERRY
    assert benchmark.queries[0].text == 'SOMEONE lifts a lantern and says "wait".'
    assert len(benchmark.videos) == 3
    assert list(map(len, benchmark.train.values())) == [2, 1]  # in training a clip may have several
    assert len(benchmark.validation) == 1


def test_what_is_wrong_is_named_with_its_file_and_line(copied, refusal):
    folder = copied("lsmdc")
    file = folder / "LSMDC16_challenge_1000_publictect.csv"
    lines = file.read_text(encoding="utf-8").splitlines()
    cases = {
        "line 2: must be 6 columns between tabs (clip, four times, sentence), not 1": [lines[0], "a,b,c,d,e,f"],
        "line 1: the caption is empty": [lines[0].rpartition("\t")[0] + "\t "],
        "line 1: must be 6 columns": ["\t" + lines[0].partition("\t")[2]],
    }
    for says, text in cases.items():
        file.write_text("\n".join(text), encoding="utf-8")
        assert f"{file}, {says}" in refusal("lsmdc", folder)
    file.write_text("\n".join([*lines, lines[0]]), encoding="utf-8")
    assert f"{file}: the clip {FERRY!r} is there twice" in refusal("lsmdc", folder)
    file.write_text("\n", encoding="utf-8")
    assert f"{file} holds no rows" in refusal("lsmdc", folder)


def test_the_real_files_have_the_published_counts(annotations):
    benchmark = read_benchmark("lsmdc", annotations / "lsmdc")
    assert len(benchmark.videos) == len(benchmark.queries) == benchmark.protocol.pool == 1000
    assert len(benchmark.validation) == 7408
