from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgvr_core.datasets.manifest import VIDEOS, ColumnsConfig, CorpusConfig, list_videos
from mgvr_core.errors import MgvrError

FORMATS = ["m.csv", "m.tsv", "m.jsonl", "m.parquet"]
ODD_NAMES = [
    "with space.mp4",
    "-rf.mp4",
    'it\'s "q".mp4',
    "what?a=1&b=2#c.mp4",
    "ünïcødé 雪.mp4",
    "a,b;c.mp4",
    "[1]*.mp4",
]


def rows_of(uri: Path | str, **settings: object) -> list[dict[str, object]]:
    table = list_videos(CorpusConfig(uri=str(uri), **settings))
    assert table.schema == VIDEOS
    return table.to_pylist()


def uris_of(uri: Path | str, **settings: object) -> list[str]:
    return [row["uri"] for row in rows_of(uri, **settings)]


def refusal(uri: Path | str, **settings: object) -> str:
    with pytest.raises(MgvrError) as caught:
        rows_of(uri, **settings)
    return str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_corpus(write, tmp_path, name):
    manifest = write(
        name,
        [
            {"id": "b", "uri": "b.mp4", "caption": "second", "start": 1.5, "end": 4.0},
            {"id": "a", "uri": "a.mp4", "caption": "one, 'quoted'", "start": None, "end": None},
            {"id": "a", "uri": "a.mp4", "caption": "two\nlines", "start": None, "end": None},
        ],
    )
    assert rows_of(manifest) == [
        {
            "id": "a",
            "uri": str(tmp_path / "a.mp4"),
            "captions": ["one, 'quoted'", "two\nlines"],
            "start": None,
            "end": None,
        },
        {"id": "b", "uri": str(tmp_path / "b.mp4"), "captions": ["second"], "start": 1.5, "end": 4.0},
    ]


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet"])
def test_captions_may_be_lists(write, name):
    manifest = write(name, [{"uri": "a.mp4", "captions": ["one", "two"]}, {"uri": "b.mp4", "captions": []}])
    assert [row["captions"] for row in rows_of(manifest)] == [["one", "two"], []]


@pytest.mark.parametrize("name", FORMATS)
def test_a_column_under_another_name_is_read_by_that_name(write, name):
    manifest = write(name, [{"video": "a.mp4", "sentence": "hello"}])
    assert rows_of(manifest, columns=ColumnsConfig(uri="video", caption="sentence"))[0]["captions"] == ["hello"]


@pytest.mark.parametrize("name", FORMATS)
def test_an_id_column_can_be_left_out(write, name):
    manifest = write(name, [{"id": "no id of a video", "uri": "a.mp4"}])
    assert rows_of(manifest, columns=ColumnsConfig(id=None))[0]["id"] is None


def test_a_blank_cell_is_no_value(write):
    (row,) = rows_of(write("m.csv", [{"uri": "a.mp4", "id": " ", "caption": " ", "start": " ", "end": ""}]))
    assert (row["id"], row["captions"], row["start"], row["end"]) == (None, [], None, None)


def test_whole_numbers_are_ids_and_leading_zeros_stay(write):
    assert [row["id"] for row in rows_of(write("m.jsonl", [{"id": 17, "uri": "a.mp4"}]))] == ["17"]
    assert [row["id"] for row in rows_of(write("m.csv", [{"id": "0017", "uri": "a.mp4"}]))] == ["0017"]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    for name, text in {"m.csv": "uri,id\na.mp4,x\n", "m.jsonl": '{"uri": "a.mp4", "id": "x"}\n'}.items():
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert rows_of(tmp_path / name)[0]["id"] == "x"


def test_relative_uris_start_from_the_manifest_or_from_root(write, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    manifest = write("m.csv", [{"uri": "sub/a.mp4"}])
    assert uris_of(manifest) == [str(tmp_path / "sub/a.mp4")]
    assert uris_of(manifest, root=str(tmp_path / "elsewhere")) == [str(tmp_path / "elsewhere/sub/a.mp4")]
    assert uris_of(manifest, root="s3://bucket/videos/") == ["s3://bucket/videos/sub/a.mp4"]


def test_names_as_find_and_others_write_them_are_the_same_files(write, tmp_path):
    manifest = write("m.csv", [{"uri": "./sub/a.mp4"}, {"uri": "sub//b.mp4"}, {"uri": "/abs/c.mp4"}])
    expected = ["/abs/c.mp4", str(tmp_path / "sub/a.mp4"), str(tmp_path / "sub/b.mp4")]
    assert uris_of(manifest) == expected
    assert [row["id"] for row in rows_of(manifest, ids="path")] == ["/abs/c.mp4", "sub/a.mp4", "sub/b.mp4"]
    assert uris_of(manifest, root="s3://bucket/v")[::2] == ["/abs/c.mp4", "s3://bucket/v/sub/a.mp4"]


def test_a_folder_lists_the_same_names_wherever_it_is_called_from(tmp_path, monkeypatch):
    for name in ("videos/a.mp4", "jobs/deep/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = [str(tmp_path / "videos/a.mp4")]
    for folder, name in ((tmp_path, "videos"), (tmp_path / "jobs/deep", "../../videos")):
        monkeypatch.chdir(folder)
        assert uris_of(name) == uris_of(f"{name}/") == uris_of(f"{name}/*.mp4") == uris_of(f"{name}/a.mp4") == expected


def test_absolute_uris_and_urls_stay(write):
    uris = ["/abs/a.mp4", "https://host/a%20b.mp4?sig=1&x=2", "s3://bucket/a.mp4"]
    assert sorted(uris_of(write("m.csv", [{"uri": uri} for uri in uris]))) == sorted(uris)


def test_file_urls_become_paths(write, tmp_path):
    odd = tmp_path / "a b?c#d%20.mp4"
    odd.touch()
    manifest = write("m.csv", [{"uri": odd.as_uri()}, {"uri": "file://localhost/x/y.mp4"}])
    assert sorted(uris_of(manifest)) == sorted([str(odd), "/x/y.mp4"])
    assert uris_of(odd.as_uri()) == [str(odd)]


@pytest.mark.parametrize("name", FORMATS)
def test_names_that_trip_shells_and_urls_go_through_unchanged(write, tmp_path, name):
    manifest = write(name, [{"uri": odd} for odd in ODD_NAMES])
    assert sorted(uris_of(manifest)) == sorted(str(tmp_path / odd) for odd in ODD_NAMES)


def test_a_folder_lists_its_videos_at_any_depth(tmp_path):
    for name in [*ODD_NAMES, "deep/er/x.MKV", "notes.txt", ".hidden.mp4", ".cache/y.mp4"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = sorted(str(tmp_path / name) for name in [*ODD_NAMES, "deep/er/x.MKV"])
    assert uris_of(tmp_path) == expected
    assert uris_of(tmp_path, extensions=("MKV",)) == [str(tmp_path / "deep/er/x.MKV")]
    assert uris_of(tmp_path, extensions=("*",)) == sorted([*expected, str(tmp_path / "notes.txt")])


def test_links_are_followed_and_loops_end(tmp_path):
    corpus, other = tmp_path / "corpus", tmp_path / "other"
    corpus.mkdir()
    other.mkdir()
    (other / "a.mp4").touch()
    (corpus / "linked").symlink_to(other)
    (corpus / "loop").symlink_to(corpus)
    (corpus / "file.mp4").symlink_to(other / "a.mp4")
    (corpus / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert uris_of(corpus) == [str(corpus / name) for name in ("file.mp4", "gone.mp4", "linked/a.mp4")]


def test_a_glob_takes_what_it_matches(tmp_path, monkeypatch):
    for name in ("a/1.mp4", "a/b/2.mp4", "c/3.webm", "c/.4.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert uris_of(tmp_path / "**/*.mp4") == [str(tmp_path / "a/1.mp4"), str(tmp_path / "a/b/2.mp4")]
    monkeypatch.chdir(tmp_path)
    assert [row["id"] for row in rows_of("a/**", ids="path")] == ["1.mp4", "b/2.mp4"]


def test_a_file_that_exists_is_meant_literally(tmp_path):
    for name in ("what?.mp4", "whats.mp4"):
        (tmp_path / name).touch()
    assert uris_of(tmp_path / "what?.mp4") == [str(tmp_path / "what?.mp4")]


def test_one_video_is_a_corpus(tmp_path):
    (tmp_path / "a.mp4").touch()
    assert rows_of(tmp_path / "a.mp4", ids="path") == [
        {"id": "a.mp4", "uri": str(tmp_path / "a.mp4"), "captions": [], "start": None, "end": None}
    ]


def test_ids_are_left_to_the_content_or_taken_from_the_path(write, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.mp4").touch()
    manifest = write("m.csv", [{"uri": "sub/a.mp4"}])
    for corpus in (tmp_path / "sub", manifest):
        assert [row["id"] for row in rows_of(corpus)] == [None]
    assert [row["id"] for row in rows_of(tmp_path, ids="path")] == ["sub/a.mp4"]
    assert [row["id"] for row in rows_of(manifest, ids="path")] == ["sub/a.mp4"]


def test_parts_of_one_file_are_videos_of_their_own(write):
    manifest = write(
        "m.jsonl",
        [{"uri": "a.mp4", "start": 5, "end": 7.5}, {"uri": "a.mp4", "end": 5}, {"uri": "a.mp4", "start": 5}],
    )
    assert [(row["id"], row["start"], row["end"]) for row in rows_of(manifest, ids="path")] == [
        ("a.mp4#t=0,5", None, 5.0),
        ("a.mp4#t=5,7.5", 5.0, 7.5),
        ("a.mp4#t=5", 5.0, None),
    ]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"uri": "", "id": "x"}, "the uri is empty"),
        ({"uri": "  ", "id": "x"}, "the uri is empty"),
        ({"uri": "a.mp4", "id": "ok"}, "'ok' is taken by {first}"),
        ({"uri": "ok.mp4", "id": "x"}, "ok.mp4 is the video 'x' here, and the video 'ok' in {first}"),
        ({"uri": "ok.mp4"}, "ok.mp4 is without an id here, and the video 'ok' in {first}"),
        ({"uri": "b.mp4", "start": 3, "end": 3}, "end (3 s) must be after start (3 s)"),
        ({"uri": "b.mp4", "end": -1}, "must be after start"),
        ({"uri": "b.mp4", "start": -1}, "start must be 0 or later"),
    ],
)
def test_a_bad_row_is_named(write, name, record, words):
    blank = {"id": None, "uri": None, "start": None, "end": None}
    manifest = write(name, [blank | {"id": "ok", "uri": "ok.mp4"}, blank | record])
    message = refusal(manifest)
    # The header is a line of its own where there is one.
    first, second = {"m.parquet": ("row 1", "row 2"), "m.jsonl": ("line 1", "line 2")}.get(name, ("line 2", "line 3"))
    assert f"{manifest}, {second}: " in message
    assert words.format(first=first) in message


@pytest.mark.parametrize("number", ["soon", "nan", "inf", "1:30"])
def test_a_bad_number_is_named(write, number):
    assert f"line 2: end must be a number, not '{number}'" in refusal(write("m.csv", [{"uri": "a", "end": number}]))


def test_blank_lines_and_line_breaks_in_cells_do_not_shift_the_line_of_an_error(tmp_path):
    (tmp_path / "m.csv").write_text('uri,caption\na,"two\nlines"\n\n"",x\n')
    assert "line 5: the uri is empty" in refusal(tmp_path / "m.csv")
    (tmp_path / "m.jsonl").write_text('{"uri": "a.mp4"}\n\n{"uri": ""}\n')
    assert "line 3: the uri is empty" in refusal(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", b"", "is empty"),
        ("m.jsonl", b"\n", "is empty"),
        ("m.csv", b"id,uri\n", "holds no rows"),
        ("m.csv", b"id,uri\nx,a.mp4\ny,b.mp4,c\n", "line 3: 3 cells under 2 columns"),
        ("m.csv", b'uri\n"a.mp4\nb.mp4\nc.mp4\n', "is not a well-formed .csv file"),
        ("m.csv", b"uri,uri\na,b\n", "'uri' more than once"),
        ("m.csv", b"id,\xe9\n", "is not UTF-8"),
        ("m.csv", b"id,uri\nx,caf\xe9.mp4\n", "is not UTF-8"),
        ("m.csv", "uri\nä.mp4\n".encode("utf-16"), "is not UTF-8"),
        ("m.jsonl", b'{"uri": "caf\xe9.mp4"}\n', "is not UTF-8"),
        ("m.jsonl", b'{"uri": "a.mp4"}\n{"uri": \n', "line 2: not valid JSON"),
        ("m.jsonl", b'["a.mp4"]\n', "line 1: must be a JSON object"),
        ("m.jsonl", b'{"uri": {"path": "a.mp4"}}\n', "line 1: uri must be text"),
        ("m.jsonl", b'{"uri": "\\ud800.mp4"}\n', "line 1: uri is not valid Unicode"),
        ("m.jsonl", b'{"uri": "a.mp4", "id": true}\n', "line 1: id must be text"),
        ("m.jsonl", b'{"uri": "a.mp4", "captions": ["fine", 0.5]}\n', "line 1: captions must be text"),
        ("m.parquet", b"uri\na.mp4\n", "is not a well-formed .parquet file"),
    ],
)
def test_a_malformed_manifest_is_named_with_its_fault(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert str(tmp_path / name) in message
    assert words in message


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_column_is_named_with_the_nearest(write, name):
    manifest = write(name, [{"video": "a.mp4", "urll": "x", "capton": "y"}])
    assert "has no column 'uri'; did you mean urll?" in refusal(manifest)
    assert "It has: video, urll" in refusal(manifest)
    assert "has no column 'vid'" in refusal(manifest, columns=ColumnsConfig(uri="vid"))
    assert "has no column 'name'" in refusal(manifest, columns=ColumnsConfig(uri="video", id="name"))


def test_real_clips_and_their_captions_are_read(shared):
    clips = shared / "clips"
    with (clips / "captions.csv").open(encoding="utf-8", newline="") as file:
        captions = [(row["video"], row["caption"]) for row in csv.DictReader(file)]
    rows = rows_of(clips / "captions.csv", root=str(clips / "good"), columns=ColumnsConfig(uri="video"), ids="path")
    assert sorted((row["id"], caption) for row in rows for caption in row["captions"]) == sorted(captions)
    assert {row["uri"] for row in rows} == {str(file) for file in (clips / "good").iterdir()}
    assert uris_of(clips / "good") == sorted(row["uri"] for row in rows)


@pytest.mark.parametrize("slip", ["Captions", "captoins", "ID", "End"])
def test_a_slip_in_an_optional_column_is_not_read_as_absence(write, slip):
    assert f"did you mean {slip!r}?" in refusal(write("m.csv", [{"uri": "a.mp4", slip: "1"}]))


def test_what_is_not_there_is_named(tmp_path, write):
    (tmp_path / "notes.txt").touch()
    assert "does not exist" in refusal(tmp_path / "nothing")
    assert "cannot read" in refusal(tmp_path / "nothing.csv")
    assert "no video found" in refusal(tmp_path)
    assert "no video found" in refusal(tmp_path / "*.mp4")
    assert "neither a manifest nor a video" in refusal(tmp_path / "notes.txt")
    assert "the corpus ftp://host/videos can't be listed" in refusal("ftp://host/videos")
    assert "is not a folder" in refusal(write("m.csv", [{"uri": "a.mp4"}]), root=str(tmp_path / "missing"))


def test_a_file_name_that_is_not_utf8_is_named(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"\xff.mp4")).touch()
    except OSError:
        pytest.skip("this file system takes no such name")
    assert "not valid UTF-8" in refusal(tmp_path)


texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), min_size=1, max_size=8).filter(
    str.strip
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    corpus=st.dictionaries(st.sampled_from("abcdefgh"), st.lists(texts, min_size=1, max_size=4), min_size=1),
    with_ids=st.booleans(),
    data=st.data(),
)
def test_the_order_of_the_rows_changes_no_id_and_loses_no_caption(tmp_path, corpus, with_ids, data):
    rows = [
        (name if with_ids else "", f"{name}.mp4", caption) for name, captions in corpus.items() for caption in captions
    ]
    listings = []
    for order in (rows, data.draw(st.permutations(rows))):
        with (tmp_path / "m.csv").open("w", encoding="utf-8", newline="") as out:
            csv.writer(out).writerows([("id", "uri", "caption"), *order])
        listings.append(rows_of(tmp_path / "m.csv", ids="path"))
    plain, shuffled = ([row | {"captions": sorted(row["captions"])} for row in listing] for listing in listings)
    assert plain == shuffled
    assert {row["id"]: row["captions"] for row in plain} == {
        (name if with_ids else f"{name}.mp4"): sorted(captions) for name, captions in corpus.items()
    }
