from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgvr_core.datasets.queries import QUERIES, QueriesConfig, QueryColumnsConfig, read_queries
from mgvr_core.errors import MgvrError

FORMATS = ["q.csv", "q.tsv", "q.jsonl", "q.parquet"]


def read(file: Path, **settings: object) -> list[dict[str, object]]:
    table = read_queries(QueriesConfig(uri=str(file), **settings))
    assert table.schema == QUERIES
    return table.to_pylist()


def refusal(file: Path, **settings: object) -> str:
    with pytest.raises(MgvrError) as caught:
        read(file, **settings)
    return str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_queries(write, name):
    several = ["a", "b"] if name in ("q.jsonl", "q.parquet") else "a; b"
    one = ["c,d"] if name in ("q.jsonl", "q.parquet") else "c,d"
    none = [] if name in ("q.jsonl", "q.parquet") else ""
    file = write(
        name,
        [
            {"id": "2", "text": "a dog, barking", "relevant": several},
            {"id": "1", "text": "a cat", "relevant": one},
            {"id": "3", "text": "just a search", "relevant": none},
        ],
    )
    assert read(file) == [
        {"id": "2", "text": "a dog, barking", "relevant": ["a", "b"]},
        {"id": "1", "text": "a cat", "relevant": ["c,d"]},
        {"id": "3", "text": "just a search", "relevant": []},
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_texts_alone_are_plain_searches(write, name):
    (query,) = read(write(name, [{"text": "a cat"}]))
    assert (query["text"], query["relevant"]) == ("a cat", [])


@pytest.mark.parametrize("name", ["q.jsonl", "q.parquet"])
def test_one_id_that_holds_the_separator_is_one_id_where_lists_exist(write, name):
    assert read(write(name, [{"text": "x", "relevant": "a;b"}]))[0]["relevant"] == ["a;b"]


def test_the_separator_of_csv_can_be_chosen(write):
    file = write("q.csv", [{"text": "x", "relevant": "a;b|c"}])
    assert read(file)[0]["relevant"] == ["a", "b|c"]
    assert read(file, separator="|")[0]["relevant"] == ["a;b", "c"]
    assert read(file, separator=None)[0]["relevant"] == ["a;b|c"]


def test_rows_of_one_query_are_gathered(write):
    rows = [{"id": "1", "text": "a cat", "relevant": video} for video in ("a", "b", "a")]
    assert read(write("q.csv", rows)) == [{"id": "1", "text": "a cat", "relevant": ["a", "b"]}]


def test_without_ids_only_equal_rows_are_one_query(write):
    rows = [{"text": text, "relevant": video} for text, video in [("a cat", "x"), ("a cat", "y"), ("a cat", "x")]]
    queries = read(write("q.csv", rows))
    assert [(query["text"], query["relevant"]) for query in queries] == [("a cat", ["x"]), ("a cat", ["y"])]
    assert len({query["id"] for query in queries}) == 2


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["a cat", "a dog"]), st.sets(st.sampled_from("xyz"))), min_size=1),
    data=st.data(),
)
def test_a_derived_id_depends_on_the_text_and_its_answers_alone(write, rows, data):
    def ids(order):
        queries = read(write("q.jsonl", [{"text": text, "relevant": list(right)} for text, right in order]))
        return {(query["text"], frozenset(query["relevant"])): query["id"] for query in queries}

    first = ids(rows)
    assert ids(data.draw(st.permutations(rows))) == first
    assert len(set(first.values())) == len({(text, frozenset(right)) for text, right in rows})


@pytest.mark.parametrize("name", FORMATS)
def test_a_corpus_manifest_with_one_caption_a_row_is_a_query_file(write, name):
    manifest = write(
        name,
        [
            {"id": "v1", "uri": "1.mp4", "caption": "a cat"},
            {"id": "v1", "uri": "1.mp4", "caption": "a kitten"},
            {"id": "v2", "uri": "2.mp4", "caption": "a dog"},
        ],
    )
    queries = read(manifest, columns=QueryColumnsConfig(id=None, text="caption", relevant="id"))
    assert [(query["text"], query["relevant"]) for query in queries] == [
        ("a cat", ["v1"]),
        ("a kitten", ["v1"]),
        ("a dog", ["v2"]),
    ]
    assert "set columns.id to null" in refusal(manifest, columns=QueryColumnsConfig(text="caption"))


@pytest.mark.parametrize("name", ["q.jsonl", "q.parquet"])
def test_a_corpus_manifest_with_lists_of_captions_is_a_query_file(write, name):
    manifest = write(name, [{"id": "v1", "captions": ["a cat", "a kitten"]}, {"id": "v2", "captions": []}])
    queries = read(manifest, columns=QueryColumnsConfig(id=None, text="captions", relevant="id"))
    assert [(query["text"], query["relevant"]) for query in queries] == [("a cat", ["v1"]), ("a kitten", ["v1"])]


@pytest.mark.parametrize("name", FORMATS)
def test_bad_rows_are_named(write, name):
    place = {"q.parquet": "row 2", "q.jsonl": "line 2"}.get(name, "line 3")
    file = write(name, [{"id": "1", "text": "a cat"}, {"id": "1", "text": "a dog"}])
    assert f"{file}, {place}: the id '1' stands for two texts, 'a cat' and 'a dog'" in refusal(file)
    file = write(name, [{"id": "1", "text": "a cat"}, {"id": "2", "text": " "}])
    assert f"{file}, {place}: the text is empty" in refusal(file)


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_column_is_named(write, name):
    file = write(name, [{"query": "a cat", "relevent": "x"}])
    assert "has no column 'text'" in refusal(file)
    assert "did you mean 'relevent'?" in refusal(file, columns=QueryColumnsConfig(text="query"))
    assert "has no column 'truth'" in refusal(file, columns=QueryColumnsConfig(text="query", relevant="truth"))


def test_what_is_no_table_is_named(tmp_path):
    (tmp_path / "q.txt").write_text("a cat\n")
    (tmp_path / "q.csv").write_text("id,text\n")
    assert "is not a table" in refusal(tmp_path / "q.txt")
    assert "holds no queries" in refusal(tmp_path / "q.csv")
    assert "cannot read" in refusal(tmp_path / "missing.csv")
