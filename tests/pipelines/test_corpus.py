"""mgvr corpus: what a run would do, and trying again what failed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from mgvr_core.config import parse
from mgvr_core.corpus.files import Look, look
from mgvr_core.errors import JobError
from mgvr_core.features.contents import Change, Failure, Key, Place, Source
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint, hash_file
from mgvr_core.model.load import ModelConfig
from mgvr_core.storage import filesystem
from pipelines import corpus as job
from pipelines.encode import EncodeConfig, about, prepare
from pipelines.upkeep import print_json

COMMANDS = ("plan", "status", "failures", "retry", "verify", "gc", "drop")
OF_A_SET = COMMANDS[1:]


class Told(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> dict[str, str]:
        """A summary's lines by name."""
        lines = [line.strip().partition("  ") for line in self.out.splitlines()[1:]]
        return {name: value.strip() for name, _, value in lines}


@pytest.fixture
def mgvr(capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Runs `mgvr corpus` with some words."""

    def run(*words: object) -> Told:
        capsys.readouterr()
        code = job.run([str(word) for word in words])
        return Told(code, *capsys.readouterr())

    return run


def everything(folder: Path) -> dict[str, int]:
    """All that lies below a folder, with the times of change."""
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))}


class Made(NamedTuple):
    """A set that nothing was encoded for, with the fingerprint of a real model."""

    config: EncodeConfig
    store: FeatureStore
    fingerprint: Any

    def commit(
        self, corpus: str | Path, uris: Sequence[Path], failed: Sequence[tuple[Path, str]] = (), **notes: Any
    ) -> Snapshot:
        """Files as they look now: with features, or failed for a reason."""
        shard = self.store.write_shard(pa.table({"row": range(len(uris))}))
        kinds = dict(failed)
        sources, failures = [], []
        for row, path in enumerate([*uris, *kinds]):
            key, seen, digest = Key(str(corpus), str(path)), look([str(path)])[str(path)], hash_file(path)
            assert isinstance(seen, Look)
            place = None if path in kinds else Place(shard.path, row)
            sources.append(Source(key, digest[:32], digest, *seen, place))
            if path in kinds:
                message = f"{path}: {kinds[path]}"
                at = "2026-01-02T03:04:05+00:00"
                failures.append(Failure(key, digest[:32], "decode", kinds[path], message, 1, "pyav", at))
        return self.store.commit(self.fingerprint, Change(sources, (), failures, [shard]), notes)


@pytest.fixture
def options(model: ModelConfig, tmp_path: Path) -> list[str]:
    """The encode job's own."""
    (tmp_path / "videos").mkdir()
    return [
        *("--corpus.uri", str(tmp_path / "videos"), "--out", str(tmp_path / "set")),
        *("--model.checkpoint", str(model.checkpoint)),
    ]


@pytest.fixture
def made(options: list[str]) -> Made:
    keys = dict(zip((key.removeprefix("--") for key in options[::2]), options[1::2], strict=True))
    values = {
        "corpus": {"uri": keys["corpus.uri"]},
        "out": keys["out"],
        "model": {"checkpoint": keys["model.checkpoint"]},
    }
    config = parse(EncodeConfig, values | {"max_failure_rate": 1, "decoding": {"workers": 1}}, "the test")
    maker, store = prepare(config)
    return Made(config, store, maker.fingerprint)


def write(folder: Path, names: str) -> list[Path]:
    """Files that hold their names."""
    for name in names:
        (folder / f"{name}.mp4").write_text(name)
    return [folder / f"{name}.mp4" for name in names]


def test_the_help_names_every_command(mgvr) -> None:
    for words, code in (((), 2), (("--help",), 0), (("help",), 0)):
        told = mgvr(*words)
        assert told.code == code
        assert all(f"mgvr corpus {command} " in told.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(mgvr, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mgvr(command, "--help")
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: mgvr corpus {command} ")
    assert f"  mgvr corpus {command} --" in shown or f"  mgvr corpus {command} jobs/" in shown
    assert ("--out" if command == "plan" else "--features") in shown
    assert ("\n  --json\n" in shown) == (command in ("plan", "status", "failures", "verify"))


def test_an_unknown_command_is_refused_with_the_nearest(mgvr) -> None:
    told = mgvr("plam")
    assert told.code == 2
    assert "no command 'plam'; did you mean plan?" in told.err


@pytest.mark.parametrize("command", OF_A_SET)
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_holds_no_set_is_refused_and_left_alone(
    mgvr, no_ray: None, tmp_path: Path, command: str, there: bool
) -> None:
    folder = tmp_path / "videos"
    if there:
        (folder / "corpus").mkdir(parents=True)
        (folder / "corpus" / "a.mp4").write_text("a video of the user's")
        os.utime(folder / "corpus" / "a.mp4", (0, 0))
    before = everything(tmp_path)
    told = mgvr(command, "--features", folder, *(["--corpus", "x"] if command == "drop" else []))
    assert told.code == 2
    assert (
        told.err == f"mgvr corpus {command}: {folder} holds no feature set: give what mgvr encode wrote (its --out)\n"
    )
    assert told.out == ""
    assert everything(tmp_path) == before


def test_a_plan_into_nothing_makes_nothing(mgvr, no_ray: None, options: list[str], tmp_path: Path) -> None:
    write(tmp_path / "videos", "ab")
    before = everything(tmp_path)
    told = mgvr("plan", *options)
    assert told.code == 0
    assert told.rows | {"new": "2", "changed": "0", "moved": "0", "deleted": "0", "unchanged": "0"} == told.rows
    assert told.rows["estimate"].startswith("unknown")
    assert everything(tmp_path) == before


def test_a_plan_tells_all_kinds_of_change_and_the_cost_and_changes_nothing(
    mgvr, no_ray: None, made: Made, options: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    a, b, c, d, e, f, g = write(folder, "abcdefg")
    run = {"encoded": 7, "tried": 7, "seconds": 70.0, "seconds_per_video": 10.0, "bytes_per_video": 2.0**20}
    made.commit(folder, [a, b, c, d, e], failed=[(f, "corrupt"), (g, "network")], run=run)
    a.write_text("other")
    b.rename(folder / "moved.mp4")
    os.utime(c, ns=(0, 0))
    d.unlink()
    shutil.copy(e, folder / "twin.mp4")
    write(folder, "n")
    before = everything(tmp_path)
    told = mgvr("plan", *options, "--price_per_hour", "36")
    counts = {
        **{"new": 1, "changed": 1, "retried": 1, "moved": 1, "duplicate": 1, "deleted": 1},
        **{"unchanged": 2, "failed": 1, "unreadable": 0, "unreachable": 0},
    }
    assert told.code == 0
    assert told.rows == {
        "corpus": str(folder),
        "feature set": f"{tmp_path / 'set'}, snapshot 1",
        **{name: str(count) for name, count in counts.items() if count},
        "to encode": "3 videos, 0.0 MiB to read",
        "estimate": "30 s and 3.0 MiB of features, at the last run's rates; cost 0.30",
    }
    assert mgvr("plan", *options, "--price_per_hour", "36", "--json").json == {
        "corpus": str(folder),
        "features": str(tmp_path / "set"),
        "snapshot": 1,
        "counts": counts,
        "encode": [str(a), str(g), str(folder / "n.mp4")],
        "done": 0,
        "bytes_to_read": 7,
        "estimate": {"seconds": 30.0, "bytes": 3 * 2**20, "cost": pytest.approx(0.3)},
        "refused": None,
    }
    assert mgvr("plan", *options, "--retry", "corrupt,network").rows["retried"] == "2"
    assert everything(tmp_path) == before


def test_a_plan_leaves_out_what_a_killed_run_has_done(mgvr, no_ray: None, made: Made, options, tmp_path: Path) -> None:
    a, _ = write(tmp_path / "videos", "ab")
    shard = made.store.write_shard(pa.table({"row": [0]}))
    made.store.record(made.fingerprint, shard, [(hash_file(a)[:32], hash_file(a))])
    told = mgvr("plan", *options)
    assert told.rows["to encode"] == "2 videos, 0.0 MiB to read; 1 of them are done, by a run that did not end"
    assert mgvr("plan", *options, "--json").json["done"] == 1


def test_a_plan_that_the_job_would_refuse_says_so(mgvr, no_ray: None, made: Made, options, tmp_path: Path) -> None:
    paths = write(tmp_path / "videos", "abc")
    made.commit(tmp_path / "videos", paths)
    for path in paths[:2]:
        path.unlink()
    told = mgvr("plan", *options)
    assert told.code == 0
    assert told.rows["refused"].startswith("2 of the 3 videos that the set has")
    assert "max_deleted_rate" in mgvr("plan", *options, "--json").json["refused"]
    assert "refused" not in mgvr("plan", *options, "--max_deleted_rate", "1").rows


def test_a_plan_for_a_set_of_another_model_is_refused(mgvr, no_ray: None, features: Snapshot, options) -> None:
    told = mgvr("plan", *options, "--out", features.url, "--sampling.frames", "3")
    assert told.code == 2
    assert "sampling: " in told.err


def copy_of(features: Snapshot, tmp_path: Path) -> Path:
    return Path(shutil.copytree(features.url, tmp_path / "copy"))


def test_a_set_that_was_encoded_is_sound(mgvr, no_ray: None, features: Snapshot) -> None:
    told = mgvr("verify", "--features", features.url, "--reencode.videos", "12")
    assert told.code == 0, told.err
    assert told.rows["read"] == f"12 rows of {len(features.shards)} shards"
    assert told.rows["encoded again"].startswith("12 videos, smallest cosine ")
    assert told.rows["problems"] == "0"
    told = mgvr("verify", "--features", features.url, "--json")
    assert told.json | {"snapshot": 1, "rows": 12, "encoded_again": 4, "skipped": [], "problems": []} == told.json
    assert told.json["smallest_cosine"] > 0.9999


@pytest.mark.parametrize("part", ["shard", "sources"])
def test_damage_is_named_and_fails_the_command(mgvr, features: Snapshot, tmp_path: Path, part: str) -> None:
    root = copy_of(features, tmp_path)
    path = features.shards[1].path if part == "shard" else features.sources_file.path
    damaged = bytearray((root / path).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (root / path).write_bytes(damaged)
    told = mgvr("verify", "--features", root, "--reencode.videos", "0")
    assert told.code == 1
    assert f"{path} has been changed" in told.out
    assert f"snapshot 1 of {root} is not sound" in told.err
    assert f"{path} has been changed" in mgvr("verify", "--features", root, "--reencode.videos", "0", "--json").out


def test_features_that_are_not_the_models_are_found_by_encoding_again(
    mgvr, no_ray: None, features: Snapshot, tmp_path: Path
) -> None:
    """Sound by themselves: whole files, unit vectors, right ids; but of other videos."""
    store = FeatureStore(tmp_path / "set")
    shards = [features.read_shard(shard) for shard in features.shards]
    moved, places = [], {}
    for old, table in zip(features.shards, shards, strict=True):
        turned = table.take(pa.array([*range(1, len(table)), 0]))
        mixed = table
        for name in ("video", "frames", "temporal", "patches"):
            mixed = mixed.set_column(table.schema.get_field_index(name), table.schema.field(name), turned[name])
        # The same frames as before, so that every vector still has its place.
        assert tensor_column(mixed, "mask").any()
        moved.append(store.write_shard(mixed))
        places[old.path] = moved[-1].path
    sources = [
        Source(key, s.id, s.content_hash, s.size, s.version, Place(places[s.place.shard], s.place.row))
        for key, s in features.sources().items()
    ]
    store.commit(features.fingerprint, Change(sources, shards=moved), features.about)
    told = mgvr("verify", "--features", store.url, "--reencode.videos", "12", "--json")
    assert told.code == 1
    assert told.json["smallest_cosine"] < 0.999
    assert any("comes out otherwise than stored: cosine" in problem for problem in told.json["problems"])


def test_a_video_that_is_not_what_it_was_is_no_problem_of_the_set(
    mgvr, no_ray: None, features: Snapshot, tmp_path: Path
) -> None:
    root = copy_of(features, tmp_path)
    names = [Path(key.uri) for key in features.sources()]
    away = tmp_path / "away"
    away.mkdir()
    shutil.move(names[0], away)
    try:
        told = mgvr("verify", "--features", root, "--reencode.videos", "12", "--json")
    finally:
        shutil.move(away / names[0].name, names[0])
    assert told.code == 0
    assert told.json["skipped"] == [f"{names[0]} is not as it was encoded"]
    assert told.json["encoded_again"] == 11


def test_a_set_whose_model_is_gone_can_still_be_read_again(mgvr, features: Snapshot, tmp_path: Path) -> None:
    root = copy_of(features, tmp_path)
    document = json.loads((root / "snapshots" / "00000001.json").read_text())
    document["about"]["config"]["model"]["checkpoint"] = str(tmp_path / "nowhere")
    (root / "snapshots" / "00000001.json").write_text(json.dumps(document))
    told = mgvr("verify", "--features", root, "--json")
    assert told.code == 0
    assert told.json["rows"] == 12
    assert "nothing is encoded again" in told.json["skipped"][0]


def test_what_failed_is_tried_again_in_all_corpora_of_a_set(
    mgvr, ray_cluster: None, corpus, made: Made, tmp_path: Path
) -> None:
    """Without listing one: a repaired file, one that was broken for a moment, and one that is still broken."""
    maker, _ = prepare(made.config)
    first, second = tmp_path / "videos", tmp_path / "others"
    second.mkdir()
    repaired, broken = write(first, "rb")
    moment, other = second / "moment.mp4", second / "other.mp4"
    shutil.copy(corpus.folder / "train" / "train-00001.mp4", moment)
    shutil.copy(corpus.folder / "train" / "train-00002.mp4", other)
    made.commit(second, [], failed=[(moment, "network"), (other, "timeout")])
    made.commit(first, [], failed=[(repaired, "not_a_video"), (broken, "not_a_video")], **about(made.config, maker))
    shutil.copy(corpus.folder / "train" / "train-00000.mp4", repaired)
    shutil.copy(corpus.folder / "train" / "train-00003.mp4", first / "never listed.mp4")

    told = mgvr("retry", "--features", made.store.url, "--kinds", "network,not_a_video")
    assert told.code == 0, told.err
    snapshot = made.store.snapshot()
    left = {Path(row["uri"]).name: (row["kind"], row["attempts"]) for row in snapshot.failed().to_pylist()}
    assert left == {"b.mp4": ("not_a_video", 2), "other.mp4": ("timeout", 1)}
    encoded = {Path(key.uri).name for key, source in snapshot.sources().items() if source.place}
    assert encoded == {"r.mp4", "moment.mp4"}
    assert snapshot.rows == 2
    # Encoded as the set says, though the retry was told nothing of the model and the sampling.
    told = mgvr("verify", "--features", made.store.url, "--json")
    assert (told.code, told.json["encoded_again"]) == (0, 2)


def test_a_corpus_that_fails_again_does_not_keep_the_others_from_being_tried(
    mgvr, no_ray: None, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, _ = prepare(made.config)
    a, b = write(tmp_path / "videos", "ab")
    made.commit("s3://bucket/v", [], failed=[(a, "network")])
    made.commit(tmp_path / "videos", [], failed=[(b, "corrupt")], **about(made.config, maker))
    tried = []

    def encode(config: EncodeConfig, only_retries: bool) -> None:
        tried.append((config.corpus.uri, config.out, config.retry, only_retries))
        raise JobError(f"{config.corpus.uri} failed again")

    monkeypatch.setattr(job, "encode", encode)
    told = mgvr("retry", "--features", made.store.url)
    assert told.code == 1
    corpora = [str(tmp_path / "videos"), "s3://bucket/v"]
    assert tried == [(uri, made.store.url, ("all",), True) for uri in corpora]
    assert all(f"{uri} failed again" in told.err for uri in corpora)


def test_where_nothing_has_failed_there_is_nothing_to_try_again(mgvr, no_ray: None, features: Snapshot) -> None:
    told = mgvr("retry", "--features", features.url)
    assert told.code == 0
    assert "nothing of" in told.out
    assert FeatureStore(features.url).latest() == features.number


def test_a_set_that_does_not_say_how_it_was_encoded_is_not_guessed_at(mgvr, no_ray: None, made: Made, tmp_path) -> None:
    made.commit(tmp_path / "videos", write(tmp_path / "videos", "a"))
    told = mgvr("retry", "--features", made.store.url)
    assert told.code == 2
    assert "does not say how it was encoded: run mgvr encode with --retry all" in told.err


def test_a_kind_that_there_is_not_is_refused(mgvr, no_ray: None, features: Snapshot) -> None:
    for command in ("retry", "failures"):
        told = mgvr(command, "--features", features.url, "--kinds", "corupt")
        assert told.code == 2
        assert "no kind of failure is called 'corupt'" in told.err


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


def test_the_status_of_a_first_run_that_was_killed_tells_of_its_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else its folder looks as if it could go."""
    FeatureStore(tmp_path).record(Fingerprint({"weights": "a"}), None, [], [])
    assert job.run(["status", "--features", str(tmp_path)]) == 0
    assert "1 parts of a run under way or killed" in capsys.readouterr().out
    assert job.run(["status", "--features", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pending_records"] == 1
