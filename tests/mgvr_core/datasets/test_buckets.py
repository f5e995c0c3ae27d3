"""A corpus in an object store is listed as a folder is."""

from __future__ import annotations

import boto3
import pytest

from mgvr_core.datasets import buckets
from mgvr_core.datasets.manifest import CorpusConfig, list_videos
from mgvr_core.errors import MgvrError

NAMES = [
    "v/a.mp4",
    "v/b.MKV",
    "v/deep/er/c.mp4",
    "v/[1]*?.mp4",
    "v/what?a=1&b=2#c.mp4",
    "v/ünïcødé 雪 +%20.mp4",
]
LEFT_OUT = [
    "v/notes.txt",
    "v/.hidden.mp4",
    "v/.cache/d.mp4",
    "v/folder.mp4/",  # how a store's own browser makes a folder
    "v2/e.mp4",
    ".trash/f.mp4",
]


def put(s3: str, name: str, body: bytes = b"") -> str:
    boto3.client("s3").put_object(Bucket=s3.removeprefix("s3://"), Key=name, Body=body)
    return f"{s3}/{name}"


@pytest.fixture
def bucket(s3: str) -> str:
    for name in [*NAMES, *LEFT_OUT]:
        put(s3, name, b"x")
    return s3


def uris(uri: str, **settings: object) -> list[str]:
    return list_videos(CorpusConfig(uri=uri, **settings))["uri"].to_pylist()


def ids(uri: str, **settings: object) -> list[str]:
    return list_videos(CorpusConfig(uri=uri, ids="path", **settings))["id"].to_pylist()


@pytest.mark.parametrize("ending", ["", "/"])
def test_a_prefix_lists_its_videos_at_any_depth(bucket: str, ending: str) -> None:
    assert uris(f"{bucket}/v{ending}") == sorted(f"{bucket}/{name}" for name in NAMES)
    assert ids(f"{bucket}/v{ending}") == sorted(name.removeprefix("v/") for name in NAMES)


def test_a_whole_bucket_is_a_prefix(bucket: str) -> None:
    assert uris(bucket) == sorted(f"{bucket}/{name}" for name in [*NAMES, "v2/e.mp4"])
    assert uris(bucket.replace("s3://", "S3://")) == uris(bucket)


def test_extensions_choose_what_is_a_video(bucket: str) -> None:
    assert uris(f"{bucket}/v", extensions=("mkv",)) == [f"{bucket}/v/b.MKV"]
    assert uris(f"{bucket}/v", extensions=("*",)) == sorted(f"{bucket}/{name}" for name in [*NAMES, "v/notes.txt"])


def test_a_pattern_takes_what_it_matches(bucket: str) -> None:
    assert ids(f"{bucket}/v/?.mp4") == ["a.mp4"]
    assert ids(f"{bucket}/v/**/*.mp4") == sorted(name[2:] for name in NAMES if name.endswith(".mp4"))
    assert ids(f"{bucket}/v*/*.mp4")[-1] == "v2/e.mp4"
    assert f"{bucket}/v/notes.txt" in uris(f"{bucket}/v/*")  # a pattern says itself what is wanted
    assert f"{bucket}/v/deep" not in uris(f"{bucket}/v/*")


def test_an_object_that_exists_is_meant_literally(bucket: str) -> None:
    put(bucket, "v/1z.mp4", b"x")
    assert uris(f"{bucket}/v/[1]*?.mp4") == [f"{bucket}/v/[1]*?.mp4"]


def test_one_object_is_a_corpus(bucket: str) -> None:
    assert uris(f"{bucket}/v/a.mp4") == [f"{bucket}/v/a.mp4"]
    assert ids(f"{bucket}/v/a.mp4") == ["a.mp4"]


def test_a_manifest_in_a_bucket_starts_from_its_own_place(s3: str) -> None:
    manifest = put(s3, "lists/m.csv", b"uri,caption\na.mp4,one\n./sub/b.mp4,two\n../c.mp4,three\n/abs/d.mp4,four\n")
    expected = ["/abs/d.mp4", f"{s3}/c.mp4", f"{s3}/lists/a.mp4", f"{s3}/lists/sub/b.mp4"]
    assert uris(manifest) == expected
    assert list_videos(CorpusConfig(uri=manifest))["captions"].to_pylist() == [["four"], ["three"], ["one"], ["two"]]
    assert ids(manifest) == ["/abs/d.mp4", f"{s3}/c.mp4", "a.mp4", "sub/b.mp4"]
    assert uris(manifest, root=f"{s3}/x/")[1:] == [f"{s3}/c.mp4", f"{s3}/x/a.mp4", f"{s3}/x/sub/b.mp4"]


def test_a_bad_row_of_a_manifest_is_named_by_the_address_of_the_manifest(s3: str) -> None:
    manifest = put(s3, "m.jsonl", b'{"uri": "a.mp4"}\n{"uri": ""}\n')
    with pytest.raises(MgvrError, match=f"^{manifest}, line 2: the uri is empty"):
        list_videos(CorpusConfig(uri=manifest))


def test_a_videos_address_on_the_web_is_a_corpus_of_one() -> None:
    uri = "https://host/v/a.mp4?sig=1"
    assert (uris(uri), ids(uri)) == ([uri], ["a.mp4?sig=1"])


@pytest.mark.parametrize("name", ["none", "v/notes.txt", "none/*.mp4", "v/*.webm"])
def test_where_no_video_is_the_place_is_named(bucket: str, name: str) -> None:
    with pytest.raises(MgvrError) as refused:
        uris(f"{bucket}/{name}")
    assert f"no video found in {bucket}/{name}" in str(refused.value)
    assert ("looked for" in str(refused.value)) == ("*" not in name)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://no-such-bucket-here/v", "the corpus s3://no-such-bucket-here/v can't be listed: FileNotFoundError"),
        ("s3://no-such-bucket-here/m.csv", "cannot read s3://no-such-bucket-here/m.csv: FileNotFoundError"),
        ("https://host/videos/", "https://host/videos can't be listed, only folders and s3://, gs:// can"),
        ("ftp://host/videos", "ftp://host/videos can't be listed, only folders and s3://, gs:// can"),
        (
            "ftp://host/m.csv",
            "cannot read ftp://host/m.csv: a manifest is a file, or lies at s3://, gs://, http://, https://",
        ),
    ],
)
def test_what_cannot_be_listed_is_refused_by_its_name(s3: str, uri: str, message: str) -> None:
    with pytest.raises(MgvrError) as refused:
        uris(uri)
    assert message in str(refused.value)


def test_a_store_that_does_not_answer_is_no_empty_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class Down:
        def __getattr__(self, name: str) -> object:
            raise TimeoutError("no answer")

    monkeypatch.setattr(buckets, "filesystem", lambda scheme: Down())
    for name in ("v", "v/*.mp4"):
        with pytest.raises(MgvrError, match=r"can't be listed: TimeoutError: no answer"):
            uris(f"s3://bucket/{name}")
