from __future__ import annotations

import json
import math

from mgvr_core.datasets.benchmarks.benchmark import Query
from mgvr_core.datasets.benchmarks.catalogue import read_benchmark


def test_a_manifest_is_a_benchmark_in_the_order_of_its_rows(copied):
    folder = copied("manifest")
    benchmark = read_benchmark("manifest", folder)
    assert benchmark.videos == ("shop-2", "shop-1", "quay")
    assert benchmark.queries[1:3] == (
        Query("shop-1", "a till opens", ("shop-1",)),
        Query("quay#0", "a gull lands", ("quay",)),
    )
    assert benchmark.spans == {"shop-2": (5.0, 9.5), "shop-1": (0.0, 5.0)}
    assert benchmark.uris["mill"] == str(folder / "clips" / "mill.mp4")
    assert benchmark.train == {"mill": ("a wheel turns",)}
    assert benchmark.protocol.pool == 0  # nothing is published


def test_a_start_alone_runs_to_the_end_of_the_file(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("id,uri,caption,start\na,a.mp4,a hill,2\n", encoding="utf-8")
    assert read_benchmark("manifest", file).spans == {"a": (2.0, math.inf)}


def test_a_file_of_queries_goes_before_captions(copied, refusal):
    folder = copied("manifest")
    queries = folder / "test-queries.jsonl"
    records = [
        {"id": "q1", "text": "something opens or rings", "relevant": ["shop-1", "shop-2"]},
        {"id": "q2", "text": "a ship", "relevant": ["gone"]},
    ]
    queries.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    benchmark = read_benchmark("manifest", folder)
    assert [query.relevant for query in benchmark.queries] == [("shop-1", "shop-2"), ("gone",)]
    assert benchmark.notes == ("queries that ask for videos that test.csv lacks, each a miss: 1 of 2",)
    queries.write_text(json.dumps(records[1]), encoding="utf-8")
    assert "no query asks for a video of" in refusal("manifest", folder)
    queries.write_text('{"id": "q3", "text": "a hill"}', encoding="utf-8")
    assert "the query 'q3' names no right video" in refusal("manifest", folder)


def test_rows_need_ids_and_a_test_needs_captions(tmp_path, refusal):
    file = tmp_path / "mine.csv"
    file.write_text("id,uri,caption\na,a.mp4,a hill\n,b.mp4,a dale\n", encoding="utf-8")
    assert f"{file}, line 3: the id is empty" in refusal("manifest", file)
    file.write_text("id,uri\na,a.mp4\n", encoding="utf-8")
    assert f"{file} has no captions" in refusal("manifest", file)
