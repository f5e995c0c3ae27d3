"""Where a file is: the same name for the same place, and names that are odd but right come through unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mgvr_core.uris import absolute, fragment, is_unicode, is_url, relative, resolve, to_local


@pytest.mark.parametrize("uri", ["s3://bucket/a.mp4", "https://host/a", "gs://b", "X-1.y+z://", "file:///a"])
def test_a_scheme_makes_a_url(uri: str) -> None:
    assert is_url(uri)


@pytest.mark.parametrize("uri", ["a.mp4", "/a/b.mp4", "C:/a.mp4", "1s://a", "://a", "a b://c", "s3:/a", ""])
def test_everything_else_is_a_path(uri: str) -> None:
    assert not is_url(uri)
    assert to_local(uri) == uri


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a/b.mp4", "/a/b.mp4"),
        ("FILE:///a/b.mp4", "/a/b.mp4"),
        ("file://localhost/a/b.mp4", "/a/b.mp4"),
        ("file:///a%20b%23.mp4", "/a b#.mp4"),
        ("file:///what?.mp4", "/what?.mp4"),
        ("S3://Bucket/Key%20.mp4", "s3://Bucket/Key%20.mp4"),
    ],
)
def test_a_file_url_is_its_path_and_a_scheme_is_written_in_one_way(uri: str, path: str) -> None:
    assert to_local(uri) == path


@pytest.mark.parametrize(
    ("uri", "root", "whole"),
    [
        ("a.mp4", "/data", "/data/a.mp4"),
        ("./sub//a.mp4", "/data", "/data/sub/a.mp4"),
        ("sub/./a.mp4", "/data", "/data/sub/a.mp4"),
        ("../a.mp4", "/data/x", "/data/x/../a.mp4"),
        ("/else/a.mp4", "/data", "/else/a.mp4"),
        ("..a.mp4", "/data", "/data/..a.mp4"),
        ("a.mp4", "s3://bucket/x", "s3://bucket/x/a.mp4"),
        ("./a.mp4", "s3://bucket/x", "s3://bucket/x/a.mp4"),
        ("../y/a.mp4", "s3://bucket/x", "s3://bucket/y/a.mp4"),
        ("../../../a.mp4", "s3://bucket/x", "s3://bucket/a.mp4"),
        ("a//b.mp4", "s3://bucket", "s3://bucket/a//b.mp4"),  # a key of its own in an object store
        ("/else/a.mp4", "s3://bucket/x", "/else/a.mp4"),
        ("https://host/a.mp4?x=/b", "s3://bucket/x", "https://host/a.mp4?x=/b"),
        ("file:///else/a.mp4", "s3://bucket/x", "/else/a.mp4"),
    ],
)
def test_a_name_starts_from_its_root_unless_it_is_whole(uri: str, root: str, whole: str) -> None:
    assert resolve(uri, root) == whole


@given(st.lists(st.sampled_from([*"ab. ", "..", "#?", "é"]), min_size=1).map("/".join))
@example("a/")
@example(".")
def test_a_resolved_path_is_what_pathlib_makes_of_it(name: str) -> None:
    assert resolve(name, "/data/x") == str(Path("/data/x") / name)


@given(st.text(st.sampled_from("ab/#é"), min_size=1).filter(lambda name: not name.startswith("/") and "//" not in name))
def test_what_lies_below_a_root_is_relative_to_it(name: str) -> None:
    for root in ("/data", "s3://bucket/x"):
        assert relative(f"{root}/{name}", root) == name
        assert relative(f"{root}/{name}", f"{root}/") == name


def test_what_lies_elsewhere_stays_whole() -> None:
    assert relative("/data2/a.mp4", "/data") == "/data2/a.mp4"


def test_a_place_has_one_name_wherever_it_is_called_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a corpus in a feature set must not depend on the folder that a run was started in."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "jobs" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "videos")
    for folder, name in (
        (tmp_path, "videos"),
        (tmp_path / "jobs", "../videos"),
        (tmp_path / "jobs/deep", "../../videos"),
    ):
        monkeypatch.chdir(folder)
        assert absolute(name) == tmp_path / "videos"
    # A link that points at today's folder is a name of its own: tomorrow it points at another.
    monkeypatch.chdir(tmp_path)
    assert absolute("link") == tmp_path / "link"
    assert absolute("jobs/../link/x") == tmp_path / "link" / "x"


def test_dots_are_followed_as_the_system_follows_them(tmp_path: Path) -> None:
    """Above a link lies the folder above its target."""
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "real" / "videos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "inner")
    assert absolute(str(tmp_path / "link" / ".." / "videos")) == tmp_path / "real" / "videos"


@pytest.mark.parametrize(
    ("start", "end", "text"),
    [
        (None, None, ""),
        (0.0, None, ""),
        (3, 7.5, "#t=3,7.5"),
        (None, 5.0, "#t=0,5"),
        (1.5, None, "#t=1.5"),
        (0.1 + 0.2, None, "#t=0.3"),
    ],
)
def test_a_part_of_a_file_is_written_as_a_media_fragment(start: float | None, end: float | None, text: str) -> None:
    assert fragment(start, end) == text


def test_halves_of_characters_are_no_unicode() -> None:
    assert is_unicode("plain")
    assert is_unicode("雪 \U0001f3a5")
    assert not is_unicode("bad \ud800 name")
