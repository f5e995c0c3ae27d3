"""Run files that any tool reads in our order, and ids that come back as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.trec import decode_id, encode_id, read_qrels, read_run, write_qrels, write_run


@given(st.text(st.characters(), min_size=1))
def test_any_id_is_one_column_and_comes_back(name):
    column = encode_id(name)

    assert column.split() == [column]
    assert column.splitlines() == [column]
    assert decode_id(column) == name
    column.encode()  # a lone surrogate, from a file name that is not UTF-8, would fail here


@given(st.lists(st.text(st.characters(), min_size=1), unique=True, max_size=20))
def test_every_id_has_a_name_of_its_own(names):
    assert len({encode_id(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", ["video_12", "größe", "a/b.mp4", "q-1"])
def test_plain_ids_are_left_alone(name):
    assert encode_id(name) == name


def test_the_lines_are_what_trec_tools_expect(tmp_path):
    write_run(tmp_path / "run", [("q 1", ["b", "a%"])], "two-stage")
    write_qrels(tmp_path / "qrels", [("q 1", ["a%"])])

    assert (tmp_path / "run").read_text() == "q%201 Q0 b 1 2 two-stage\nq%201 Q0 a%25 2 1 two-stage\n"
    assert (tmp_path / "qrels").read_text() == "q%201 0 a%25 1\n"


def test_a_run_sorted_by_score_is_the_list_that_was_written(tmp_path):
    lists = {"q1": [f"d{i}" for i in range(200)], "q2": ["z", "a", "m"]}
    write_run(tmp_path / "run", lists.items(), "t")

    assert {query: [document for document, _ in hits] for query, hits in read_run(tmp_path / "run").items()} == lists


def test_rows_are_written_as_they_come_and_the_file_appears_whole(tmp_path):
    def lists():
        yield "q1", ["d1"]
        assert not (tmp_path / "run").exists()
        raise RuntimeError("stopped half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_run(tmp_path / "run", lists(), "t")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lists", [[("", ["d1"])], [("q1", ["d1", ""])]])
def test_an_empty_id_is_refused(tmp_path, lists):
    with pytest.raises(MgvrError, match="id is empty"):
        write_run(tmp_path / "run", lists, "t")


def test_equal_scores_of_a_foreign_run_are_ordered_as_trec_eval_does(tmp_path):
    (tmp_path / "run").write_text("q Q0 a 1 0.5 t\nq Q0 c 9 0.5 t\nq Q0 b 3 0.7 t\n")

    assert read_run(tmp_path / "run") == {"q": [("b", 0.7), ("c", 0.5), ("a", 0.5)]}


def test_qrels_keep_judged_queries_without_a_right_answer(tmp_path):
    (tmp_path / "qrels").write_text("q1 0 a 0\n\nq1 0 b 2\nq2 0 a -1\n")

    assert read_qrels(tmp_path / "qrels") == {"q1": ["b"], "q2": []}


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_run, "q Q0 d 1 0.5 t\nq Q0 d 1 0.5\n", "line 2: 5 columns where a TREC file has 6"),
        (read_run, "q Q0 d 1 high t\n", "line 1: the score 'high'"),
        (read_run, "q Q0 d 1 nan t\n", "line 1: the score 'nan'"),
        (read_qrels, "q 0 d yes\n", "line 1: the relevance 'yes'"),
        (read_qrels, "q d 1\n", "line 1: 3 columns"),
    ],
)
def test_a_damaged_file_is_refused_by_line(tmp_path, read, text, message):
    (tmp_path / "file").write_text(text)

    with pytest.raises(MgvrError, match=message):
        read(tmp_path / "file")
