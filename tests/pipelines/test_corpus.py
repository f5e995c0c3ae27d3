"""mgvr corpus: what a run would do, whether a set is sound, and trying again what failed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from corpus_command import Made, copy_of, everything, made, mgvr, options, write

from mgvr_core.errors import JobError
from mgvr_core.features.contents import Change, Place, Source
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import hash_file
from pipelines import corpus as job
from pipelines.encode import EncodeConfig, about, prepare

__all__ = ["made", "mgvr", "options"]

COMMANDS = ("plan", "status", "failures", "retry", "verify", "recode", "gc", "drop")
OF_A_SET = COMMANDS[1:]


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
    needed = {"drop": ["--corpus", "x"], "recode": ["--out", tmp_path / "coded", "--codec.values", "fp16"]}
    told = mgvr(command, "--features", folder, *needed.get(command, []))
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
