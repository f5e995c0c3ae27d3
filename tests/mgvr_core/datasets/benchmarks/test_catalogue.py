from __future__ import annotations

import pytest

from mgvr_core.datasets.benchmarks.catalogue import NAMES, protocols, read_benchmark

SETS = {"msrvtt-1ka": "msrvtt", "msrvtt-1ka-7k": "msrvtt", "msrvtt-full": "msrvtt"}


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_reads_its_sample_and_holds_together(copied, name):
    folder = copied(SETS.get(name, name))
    benchmark = read_benchmark(name, folder)
    assert benchmark.protocol == protocols()[name]
    assert benchmark.protocol.name == name
    ids = [query.id for query in benchmark.queries]
    assert len(ids) == len(set(ids)) > 0
    assert {video for query in benchmark.queries for video in query.relevant} == set(benchmark.videos)
    assert not set(benchmark.videos) & {*benchmark.train, *benchmark.validation}
    assert all(texts and all(texts) for split in (benchmark.train, benchmark.validation) for texts in split.values())
    assert all(file.parent == folder for file in benchmark.files)
    assert len(benchmark.files) == len(set(benchmark.files)) > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_first_file_given_alone_is_the_same_test(copied, name):
    folder = copied(SETS.get(name, name))
    whole = read_benchmark(name, folder)
    alone = read_benchmark(name, whole.files[0])
    assert (alone.videos, alone.queries) == (whole.videos, whole.queries)


def test_an_unknown_name_is_told_the_nearest(tmp_path, refusal):
    assert "no benchmark 'msrvtt-1k'; did you mean msrvtt-1ka? There are: msrvtt-1ka," in refusal("msrvtt-1k", tmp_path)


def test_a_folder_without_the_files_is_told_which_are_looked_for(tmp_path, refusal):
    for name in NAMES:
        assert f"{tmp_path} has no " in refusal(name, tmp_path)
        assert f"the annotations {tmp_path / 'nowhere'} do not exist" in refusal(name, tmp_path / "nowhere")
