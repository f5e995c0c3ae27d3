"""mgvr corpus: looking into a feature set and keeping it in order."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
from corpus_command import Made, everything, made, mgvr, options, write

from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint, hash_file
from mgvr_core.storage import filesystem
from pipelines import corpus as job
from pipelines.upkeep import print_json

__all__ = ["made", "mgvr", "options"]


def test_the_status_of_a_set_is_told_to_a_reader_and_to_a_program(mgvr, no_ray: None, features: Snapshot) -> None:
    told = mgvr("status", "--features", features.url)
    listing = next(iter(features.sources())).corpus
    assert told.code == 0
    assert told.rows["feature set"].startswith(f"{features.url}, snapshot 1 of ")
    assert told.rows["videos"] == f"12 encoded in {len(features.shards)} shards, 0 failed"
    assert told.rows["failures"] == "none"
    assert told.rows[f"corpus {listing}"] == "12 listed"
    assert told.rows["fingerprint"] == features.fingerprint.digest
    assert told.rows["unfinished"].startswith("0 videos")
    assert told.rows["last run"].startswith("12 videos encoded in ")
    document = mgvr("status", "--features", features.url, "--json").json
    expected = {
        **{"features": features.url, "snapshot": 1, "snapshots": [1], "rows": 12, "failed": 0, "failures": {}},
        **{"corpora": {listing: 12}, "fingerprint": features.fingerprint.digest, "pending_videos": 0},
        **{"bytes": features.bytes, "made_with": features.fingerprint.parts, "created": features.created},
    }
    assert document | expected == document
    assert document["last_run"]["encoded"] == 12


def test_the_status_counts_failures_by_kind_corpora_versions_and_unfinished_work(mgvr, made: Made, tmp_path) -> None:
    a, b, c, d = write(tmp_path / "videos", "abcd")
    made.commit(tmp_path / "videos", [a], failed=[(b, "corrupt"), (c, "corrupt"), (d, "network")])
    made.commit("s3://bucket/v", [a])
    shard = made.store.write_shard(pa.table({"row": [0, 1]}))
    made.store.record(made.fingerprint, shard, [("x", "1" * 64), ("y", "2" * 64)])
    told = mgvr("status", "--features", made.store.url)
    assert told.rows["failures"] == "corrupt 2, network 1"
    assert told.rows[f"corpus {tmp_path / 'videos'}"] == "4 listed"
    assert told.rows["corpus s3://bucket/v"] == "1 listed"
    assert told.rows["feature set"].endswith("(there are: 1, 2)")
    assert told.rows["unfinished"].startswith("2 videos")
    assert told.rows["last run"] == "not recorded"
    document = mgvr("status", "--features", made.store.url, "--json").json
    assert (document["failed"], document["failures"]) == (3, {"corrupt": 2, "network": 1})
    assert (document["snapshots"], document["pending_videos"], document["last_run"]) == ([1, 2], 2, None)


def test_the_status_of_a_first_run_that_was_killed_tells_of_its_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else its folder looks as if it could go."""
    FeatureStore(tmp_path).record(Fingerprint({"weights": "a"}), None, [], [])
    assert job.run(["status", "--features", str(tmp_path)]) == 0
    assert "1 parts of a run under way or killed" in capsys.readouterr().out
    assert job.run(["status", "--features", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pending_records"] == 1


def test_a_set_in_an_object_store_is_looked_into_like_a_folder(mgvr, features: Snapshot, s3: str) -> None:
    filesystem("s3").put(features.url, f"{s3}/set", recursive=True)
    assert mgvr("status", "--features", f"{s3}/set/").rows["videos"].startswith("12 encoded")
    assert mgvr("verify", "--features", f"{s3}/set").code == 0
    told = mgvr("status", "--features", f"{s3}/elsewhere")
    assert (told.code, told.err.split(":", 1)[1]) == (
        2,
        f" {s3}/elsewhere holds no feature set: give what mgvr encode wrote (its --out)\n",
    )


def test_failures_are_listed_with_their_reasons(mgvr, no_ray: None, made: Made, tmp_path: Path) -> None:
    a, b, c = write(tmp_path / "videos", "abc")
    made.commit(tmp_path / "videos", [], failed=[(a, "corrupt"), (b, "network"), (c, "corrupt")])
    told = mgvr("failures", "--features", made.store.url)
    lines = told.out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["corrupt", "network", "corrupt"]
    assert lines[0].split(maxsplit=4) == ["corrupt", "decode", "1x", "2026-01-02T03:04:05+00:00", f"{a}: corrupt"]
    assert lines[-1] == "3 failures, corrupt 2, network 1"
    assert mgvr("failures", "--features", made.store.url, "--json").json[1] == {
        **{"corpus": str(tmp_path / "videos"), "uri": str(b), "start": None, "end": None, "id": hash_file(b)[:32]},
        **{"stage": "decode", "kind": "network", "message": f"{b}: network", "attempts": 1, "decoder": "pyav"},
        "at": "2026-01-02T03:04:05+00:00",
    }


def test_failures_can_be_chosen_by_kind_and_by_version(mgvr, no_ray: None, made: Made, tmp_path: Path) -> None:
    a, b, c = write(tmp_path / "videos", "abc")
    made.commit(tmp_path / "videos", [], failed=[(a, "corrupt"), (b, "network"), (c, "timeout")])
    made.commit(tmp_path / "videos", [a, b, c])

    def kinds(*words: str) -> list[str]:
        return [row["kind"] for row in mgvr("failures", "--features", made.store.url, "--json", *words).json]

    assert kinds() == []
    assert kinds("--snapshot", "1") == ["corrupt", "network", "timeout"]
    assert kinds("--snapshot", "1", "--kinds", "transient") == ["network"]
    assert kinds("--snapshot", "1", "--kinds", "corrupt, timeout") == ["corrupt", "timeout"]
    assert kinds("--snapshot", "1", "--kinds", "[timeout]") == ["timeout"]
    assert mgvr("failures", "--features", made.store.url).out == "0 failures\n"
    told = mgvr("failures", "--features", made.store.url, "--snapshot", "7")
    assert told.code == 2
    assert "snapshot 7" in told.err


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mgvr corpus failures … | head`"""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        print_json(["x" * 100] * 1000)


def test_gc_removes_old_versions_once_it_was_told_to(mgvr, no_ray: None, made: Made, tmp_path: Path) -> None:
    a, b, c = write(tmp_path / "videos", "abc")
    for uris in ([a], [a, b], [a, b, c]):
        made.commit(tmp_path / "videos", uris)
    root = tmp_path / "set"
    yesterday = time.time() - 25 * 3600
    for path in root.rglob("*.*"):
        os.utime(path, (yesterday, yesterday))
    made.store.write_shard(pa.table({"row": [7]}))  # of a run under way
    before = everything(root)
    dry = mgvr("gc", "--features", root, "--keep", "1", "--dry-run")
    assert everything(root) == before
    first, *names = dry.out.splitlines()
    assert first.startswith(f"corpus gc: {len(names)} files, ")
    assert first.endswith("would be removed; versions kept: 3")
    assert "  snapshots/00000001.json" in names
    assert made.store.numbers() == [1, 2, 3]

    told = mgvr("gc", "--features", root, "--keep", "1")
    assert told.out == first.replace("would be removed", "removed") + "\n"
    assert made.store.numbers() == [3]
    assert len(before.keys() - everything(root).keys()) == len([name for name in names if "snapshots" not in name])
    assert made.store.snapshot().rows == 3
    assert (
        mgvr("gc", "--features", root, "--keep", "1", "--dry_run").out.splitlines()[0].startswith("corpus gc: 0 files")
    )


def test_a_corpus_is_dropped_by_its_address_and_the_others_stay(
    mgvr, no_ray: None, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = write(tmp_path / "videos", "abc")
    made.commit(tmp_path / "videos", [a, b], failed=[(c, "corrupt")])
    made.commit("s3://bucket/v", [a])
    monkeypatch.chdir(tmp_path)
    told = mgvr("drop", "--features", "set", "--corpus", "vidoes")
    assert told.code == 2
    assert told.err.endswith(f"set holds no corpus vidoes; it holds: {tmp_path / 'videos'}, s3://bucket/v\n")
    assert made.store.latest() == 2

    told = mgvr("drop", "--features", "set", "--corpus", "videos")
    assert told.code == 0
    assert told.out == f"corpus drop: 3 listed videos of {tmp_path / 'videos'} gone; snapshot 3: 1 videos\n"
    assert [(key.corpus, key.uri) for key in made.store.snapshot().sources()] == [("s3://bucket/v", str(a))]
    assert len(made.store.snapshot().failed()) == 0
    assert made.store.snapshot(2).rows == 2
    assert len(made.store.snapshot(2).sources()) == 4
    assert mgvr("drop", "--features", "set", "--corpus", "s3://bucket/v/").code == 0
    assert (made.store.snapshot().rows, made.store.snapshot().sources()) == (0, {})
