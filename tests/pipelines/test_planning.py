"""The corpus against the feature set: what is looked at, what is read, what is refused, and what it would cost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest

from mgvr_core.corpus import files as corpus_files
from mgvr_core.corpus.files import Look, Trouble, hash_video, look
from mgvr_core.corpus.plan import Content, Plan, decide
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.errors import MgvrError
from mgvr_core.features.contents import Change, Failure, Key, Place, Source
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint
from pipelines import planning
from pipelines.decoding import DecodingConfig
from pipelines.identifying import read_contents
from pipelines.planning import (
    compare_corpus,
    corpus_name,
    describe,
    estimate,
    plan_json,
    read_here,
    require_few_deleted,
)

FINGERPRINT = Fingerprint({"weights": "abc"})
NOW = "2026-01-02T03:04:05+00:00"
PATIENT = DecodingConfig(attempts=3, backoff_s=0.5)


def never(failure: Failure) -> bool:
    return False


def fill(
    store: FeatureStore,
    corpus: CorpusConfig,
    uris: Sequence[str],
    ids: Sequence[str] | None = None,
    failed: Sequence[str] = (),
    about: dict[str, Any] | None = None,
) -> None:
    """Make a set of files as they look now, without encoding them."""
    name, looks = corpus_name(corpus), look(uris)
    shard = store.write_shard(pa.table({"row": range(len(uris))}))
    sources, failures = [], []
    for row, uri in enumerate(uris):
        key, seen = Key(name, uri), looks[uri]
        digest = f"{row:064x}" if ids else str(hash_video(uri))
        own = ids[row] if ids else digest[:32]
        size, version = (None, None) if isinstance(seen, Trouble) else seen
        place = None if uri in failed else Place(shard.path, row)
        sources.append(Source(key, own, digest, size, version, place))
        if uri in failed:
            failures.append(Failure(key, own, "decode", "corrupt", f"{uri}: corrupt", 1, "pyav", NOW))
    store.commit(FINGERPRINT, Change(sources, failures=failures, shards=[shard]), about or {})


class Corpus:
    """A corpus and a set."""

    def __init__(self, uri: str | Path, store: FeatureStore) -> None:
        self.corpus, self.store = CorpusConfig(uri=str(uri)), store

    def plan(self, **settings: Any) -> Plan:
        compared = compare_corpus(self.corpus, self.store, never, PATIENT, **settings)
        return decide(compared, read_here(compared, self.store, PATIENT), NOW)


class Files(Corpus):
    """A folder of files that hold their names, and a set."""

    @property
    def folder(self) -> Path:
        return Path(self.corpus.uri)

    def write(self, names: str) -> list[str]:
        for name in names:
            (self.folder / f"{name}.mp4").write_text(name)
        return [str(self.folder / f"{name}.mp4") for name in names]

    def fill(self, names: str, **settings: Any) -> list[str]:
        uris = self.write(names)
        fill(self.store, self.corpus, uris, **settings)
        return uris


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "videos").mkdir()
    return Files(tmp_path / "videos", FeatureStore(tmp_path / "set"))


def counted(plan: Plan) -> dict[str, int]:
    return {name: count for name, count in plan.counts.items() if count}


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for, none of which is made."""
    made: list[float] = []
    monkeypatch.setattr(corpus_files.time, "sleep", made.append)
    return made


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """From the call on, opening a file below a folder fails the test."""

    def close(folder: Path) -> None:
        for module, name in (("builtins", "open"), ("io", "open"), ("os", "open")):
            monkeypatch.setattr(f"{module}.{name}", guarded(getattr(__import__(module), name), folder))

    def guarded(whole: Callable[..., Any], folder: Path) -> Callable[..., Any]:
        def opened(file: Any, *args: Any, **options: Any) -> Any:
            if str(file).startswith(f"{folder}{os.sep}"):
                pytest.fail(f"{file} was opened")
            return whole(file, *args, **options)

        return opened

    return close


def test_a_corpus_has_one_name_wherever_a_run_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "jobs").mkdir()
    expected = str(tmp_path / "videos")
    for folder, name in ((tmp_path, "videos"), (tmp_path, "./videos/"), (tmp_path / "jobs", "../videos")):
        monkeypatch.chdir(folder)
        assert corpus_name(CorpusConfig(uri=name)) == expected
    assert corpus_name(CorpusConfig(uri=(tmp_path / "videos").as_uri())) == expected
    assert corpus_name(CorpusConfig(uri="S3://bucket/v/")) == "s3://bucket/v"


def test_nothing_new_is_an_empty_plan_that_reads_nothing(files: Files, closed: Callable[[Path], None]) -> None:
    files.fill("abc")
    closed(files.folder)
    plan = files.plan()
    assert counted(plan) == {"unchanged": 3}
    assert plan.empty


def test_new_changed_moved_touched_and_deleted_files_are_told_apart(files: Files) -> None:
    uris = files.fill("abcde")
    Path(uris[0]).write_text("other")
    Path(uris[1]).rename(files.folder / "moved.mp4")
    os.utime(uris[2], ns=(0, 0))
    Path(uris[3]).unlink()
    files.write("n")
    shutil.copy(uris[4], files.folder / "twin.mp4")
    plan = files.plan()
    assert counted(plan) == {"new": 1, "changed": 1, "moved": 1, "duplicate": 1, "deleted": 1, "unchanged": 2}
    assert [Path(source.key.uri).name for source in plan.encode] == ["a.mp4", "n.mp4"]
    assert plan.bytes == len("other") + len("n")


def test_a_corpus_in_a_bucket_is_told_apart_by_etags(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = boto3.resource("s3").Bucket(s3.removeprefix("s3://"))
    for name in "abcd":
        bucket.put_object(Key=f"v/{name}.mp4", Body=name.encode())
    files = Corpus(f"{s3}/v", FeatureStore(tmp_path / "set"))
    fill(files.store, files.corpus, [f"{s3}/v/{name}.mp4" for name in "abcd"])
    bucket.put_object(Key="v/a.mp4", Body=b"a")  # written again: another time, the same etag
    with monkeypatch.context() as patched:
        patched.setattr(planning, "hash_video", lambda uri: pytest.fail(f"{uri} was read"))
        assert files.plan().empty

    bucket.put_object(Key="v/a.mp4", Body=b"other")
    bucket.delete_objects(Delete={"Objects": [{"Key": f"v/{name}.mp4"} for name in "bc"]})
    bucket.put_object(Key="v/moved.mp4", Body=b"b")
    bucket.put_object(Key="v/n.mp4", Body=b"n")
    plan = files.plan()
    assert counted(plan) == {"new": 1, "changed": 1, "moved": 1, "deleted": 1, "unchanged": 1}
    assert [source.key.uri for source in plan.encode] == [f"{s3}/v/a.mp4", f"{s3}/v/n.mp4"]


def test_a_network_that_fails_while_looking_is_given_time(
    files: Files, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write("ab")
    whole, calls = corpus_files._look_at_file, []

    def shaky(path: str) -> Look | Trouble:
        calls.append(path)
        return Trouble("unreadable", f"{path}: stale") if path.endswith("b.mp4") else whole(path)

    monkeypatch.setattr(corpus_files, "_look_at_file", shaky)
    plan = files.plan()
    assert counted(plan) == {"new": 1, "unreadable": 1}
    assert plan.unreadable[0][1].attempts == 3
    assert sleeps == [0.5, 1.0]
    assert [Path(call).name for call in calls] == ["a.mp4", "b.mp4", "b.mp4", "b.mp4"]


def test_a_network_that_fails_while_reading_is_given_time(
    files: Files, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = files.write("ab")
    monkeypatch.setattr(planning, "hash_video", lambda uri: Trouble("network", f"{uri}: reset"))
    read = read_here(compare_corpus(files.corpus, files.store, never, PATIENT), files.store, PATIENT)
    assert read == {uri: Content(Trouble("network", f"{uri}: reset"), 3) for uri in uris}
    assert sorted(sleeps) == [0.5, 0.5, 1.0, 1.0]


def test_the_workers_of_a_cluster_read_what_this_process_reads(ray_cluster: None, files: Files) -> None:
    files.write("abc")
    (files.folder / "empty.mp4").touch()
    (files.folder / "gone.mp4").symlink_to(files.folder / "nowhere.mp4")
    compared = compare_corpus(files.corpus, files.store, never, PATIENT)
    here = read_here(compared, files.store, PATIENT)
    uris = [*compared.uris_to_read, str(files.folder / "gone.mp4")]
    there = read_contents(uris, PATIENT)
    assert list(here) == compared.uris_to_read == uris[:-1]
    assert {uri: there[uri] for uri in here} == here
    assert there[uris[-1]].outcome[0] == "missing"
    assert read_contents([], PATIENT) == {}


def test_only_what_failed_is_looked_at_when_failures_are_tried_again(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the corpus is not listed: it may have a million files, and be known to nobody but its own run."""
    uris = files.fill("abcd", failed=[str(files.folder / f"{name}.mp4") for name in "cd"])
    Path(uris[0]).write_text("changed")
    Path(uris[1]).unlink()
    Path(uris[2]).write_text("repaired")
    files.write("n")
    monkeypatch.setattr(planning, "list_corpus", lambda config: pytest.fail("the corpus was listed"))
    plan = files.plan(only_retries=True)
    assert counted(plan) == {"changed": 1, "failed": 1}
    assert [source.key.uri for source in plan.encode] == [uris[2]]
    assert plan.gone == ()


def test_a_corpus_of_which_much_is_gone_is_refused(files: Files) -> None:
    """A disk that is not mounted, or half of a copy."""
    uris = files.fill("abcd")
    for uri in uris[:2]:
        Path(uri).unlink()
    plan = files.plan()
    require_few_deleted(plan, 0.5)
    with pytest.raises(MgvrError) as refused:
        require_few_deleted(plan, 0.49)
    assert f"2 of the 4 videos that the set has of {files.folder} are listed no more" in str(refused.value)
    assert "max_deleted_rate (49%); nothing was done" in str(refused.value)
    assert "--max_deleted_rate 1" in str(refused.value)
    require_few_deleted(plan, 1)


def test_files_that_have_moved_are_not_gone(files: Files) -> None:
    for uri in files.fill("abcd"):
        Path(uri).rename(uri.replace(".mp4", "-2.mp4"))
    require_few_deleted(files.plan(), 0)


def test_failed_videos_count_as_part_of_the_corpus(files: Files) -> None:
    uris = files.fill("abcd", failed=[str(files.folder / f"{name}.mp4") for name in "bcd"])
    for uri in uris[:2]:
        Path(uri).unlink()
    for uri in uris[2:]:
        Path(uri).write_text(f"repaired {uri}")
    assert counted(files.plan()) == {"deleted": 2, "changed": 2}
    require_few_deleted(files.plan(), 0.5)


RUN = {
    "encoded": 90,
    "tried": 100,
    "seconds": 60.0,
    "seconds_per_video": 0.6,
    "bytes_per_video": 1000.0,
    "decode_videos_per_second": 2.0,
    "encode_videos_per_second": 5.0,
    "write_videos_per_second": 50.0,
}


def test_an_estimate_is_the_start_of_a_run_and_the_slowest_stage(files: Files) -> None:
    files.fill("a", about={"run": RUN})
    assert estimate(100, files.store) == {"seconds": pytest.approx(60), "bytes": 100_000}
    assert estimate(1, files.store) == {"seconds": pytest.approx(10.5), "bytes": 1000}
    assert estimate(10_000, files.store) == {"seconds": pytest.approx(5010), "bytes": 10_000_000}
    assert estimate(0, files.store) == {"seconds": 0, "bytes": 0}


def test_a_run_that_encoded_nothing_leaves_the_estimate_to_the_one_before(files: Files) -> None:
    assert estimate(5, files.store) is None
    files.fill("a")
    assert estimate(5, files.store) is None
    files.fill("ab", about={"run": RUN | {"bytes_per_video": 5.0}})
    files.fill("abc", about={"run": RUN})
    files.fill("abcd", about={"run": {"encoded": 0, "tried": 0, "seconds": 3.0}})
    assert estimate(100, files.store) == {"seconds": pytest.approx(60), "bytes": 100_000}


def test_a_record_without_rates_still_gives_an_estimate(files: Files) -> None:
    files.fill("a", about={"run": {name: value for name, value in RUN.items() if "videos_per" not in name}})
    assert estimate(10, files.store) == {"seconds": pytest.approx(6), "bytes": 10_000}


def test_a_plan_is_told_to_a_reader_and_to_a_program_alike(files: Files) -> None:
    files.fill("ab", about={"run": RUN})
    fill(files.store, CorpusConfig(uri="/elsewhere"), [str(files.folder / "a.mp4")])
    uris = files.write("xyz")
    plan = files.plan()
    text = describe(plan, files.store, 2, 3.6)
    assert text["feature set"] == f"{files.store.url}, snapshot 2"
    assert [text[name] for name in ("new", "changed", "deleted", "unchanged", "moved")] == ["3", "0", "0", "2", "0"]
    assert "failed" not in text
    assert text["to encode"] == "3 videos, 0.0 MiB to read; 1 of them are done, by a run that did not end"
    assert text["estimate"] == "11 s and 0.0 MiB of features, at the last run's rates; cost 0.01"
    assert text["other corpora"] == "/elsewhere (left as they are)"
    assert plan_json(plan, files.store, 2, 3.6) == {
        "corpus": str(files.folder),
        "features": files.store.url,
        "snapshot": 2,
        "counts": dict(plan.counts),
        "encode": uris,
        "done": 1,
        "bytes_to_read": 3,
        "estimate": {"seconds": pytest.approx(11), "bytes": 2000, "cost": pytest.approx(0.011)},
    }


def test_without_a_price_or_an_earlier_run_there_is_no_cost(files: Files) -> None:
    files.write("a")
    plan = files.plan()
    assert describe(plan, files.store, 1, 3.6)["estimate"] == "unknown: it comes from the rates of an earlier run"
    assert describe(plan, files.store, 1, None)["feature set"].endswith("snapshot none yet")
    assert plan_json(plan, files.store, 1, 3.6)["estimate"] is None
    files.fill("a", about={"run": RUN})
    assert "cost" not in describe(plan, files.store, 1, None)["estimate"]
    assert plan_json(plan, files.store, 1, None)["estimate"]["cost"] is None


def test_a_hundred_thousand_videos_are_planned_without_reading_one(
    tmp_path: Path, closed: Callable[[Path], None]
) -> None:
    """Files of the file system, as links: making as many takes longer than all the rest."""
    videos, count, seed_of = tmp_path / "videos", 100_000, 20_000
    uris = []
    for number in range(count):
        folder = videos / f"{number // 1000:03d}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        if number % seed_of == 0:
            seed = folder / "seed"
            seed.write_text(str(number))
        uris.append(f"{folder}/{number:06d}.mp4")
        os.link(seed, uris[-1])
    ids = [f"v{number}" for number in range(count)]
    manifest = tmp_path / "videos.csv"
    manifest.write_text("id,uri\n" + "".join(f"{own},{uri}\n" for own, uri in zip(ids, uris, strict=True)))
    corpus, store = CorpusConfig(uri=str(manifest)), FeatureStore(tmp_path / "set")
    fill(store, corpus, uris, ids=ids)

    closed(videos)
    compared = compare_corpus(corpus, store, never, PATIENT)
    plan = decide(compared, read_here(compared, store, PATIENT), NOW)
    assert counted(plan) == {"unchanged": count}
    assert plan.empty
    assert compared.uris_to_read == []
