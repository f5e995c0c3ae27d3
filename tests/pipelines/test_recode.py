"""Coded sets: made from plain ones, or as the videos are encoded, and used as any other set is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from corpus_command import copy_of, everything, mgvr
from encode_job import config as encode_config

from mgvr_core.config import load, parse
from mgvr_core.errors import MgvrError
from mgvr_core.features.contents import Change, Failure, Key, Source
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.features.verify import verify
from mgvr_core.model.load import ModelConfig
from pipelines import recoding
from pipelines.encode import encode
from pipelines.encode import prepare as prepare_encode
from pipelines.recoding import RecodeConfig, recode
from pipelines.starting import plan as plan_training
from pipelines.train_options import TrainConfig

__all__ = ["mgvr"]

PQ = {"values": "pq", "subvectors": 16, "tokens": 2}
INT8 = {"values": "int8", "tokens": 2}


def config(features: Snapshot | Path, out: Path, codec: dict[str, Any], **settings: Any) -> RecodeConfig:
    place = features.url if isinstance(features, Snapshot) else str(features)
    return parse(RecodeConfig, {"features": place, "out": str(out), "codec": codec, **settings}, source="the test")


@pytest.fixture(scope="module")
def coded(features: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The test split by product quantisation."""
    return recode(config(features, tmp_path_factory.mktemp("coded") / "set", PQ))


@pytest.fixture(scope="module")
def int8(features: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return recode(config(features, tmp_path_factory.mktemp("int8") / "set", INT8))


def plain_rows(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """What a code leaves as it is, by id."""
    names = ["id", "uri", "content_hash", "start", "end", "duration", "fps", "decoder", "mask", "frame_norms"]
    rows = [row for table in snapshot.tables([*names, "thumbnail"]) for row in table.to_pylist()]
    return {row["id"]: row for row in rows}


def without_place(sources: dict[Key, Source]) -> set[tuple[object, ...]]:
    return {(s.key, s.id, s.content_hash, s.size, s.version, s.place is None) for s in sources.values()}


def arrays(snapshot: Snapshot, *names: str) -> dict[str, dict[str, np.ndarray]]:
    """Tensors by id."""
    found = {}
    for table in snapshot.tables(["id", *names]):
        values = {name: tensor_column(table, name) for name in names}
        for row, video in enumerate(table["id"].to_pylist()):
            found[video] = {name: values[name][row] for name in names}
    return found


@pytest.mark.parametrize("kind", ["coded", "int8"])
def test_a_coded_set_holds_the_videos_of_the_plain_one(
    features: Snapshot, kind: str, request: pytest.FixtureRequest
) -> None:
    made: Snapshot = request.getfixturevalue(kind)
    assert plain_rows(made) == plain_rows(features)
    assert without_place(made.sources()) == without_place(features.sources())
    assert made.bytes < features.bytes
    assert {
        name: part for name, part in made.fingerprint.parts.items() if name != "codec"
    } == features.fingerprint.parts
    videos = arrays(features, "video")
    assert all(np.array_equal(each["video"], videos[name]["video"]) for name, each in arrays(made, "video").items())
    codec = made.codec()
    assert codec is not None
    frames = arrays(features, "frames", "mask")
    for table in made.tables(["id", *codec.columns_of("frames")]):
        decoded = codec.decode("frames", {name: tensor_column(table, name) for name in codec.columns_of("frames")})
        for name, vectors in zip(table["id"].to_pylist(), decoded.float(), strict=True):
            mask = frames[name]["mask"].astype(bool)
            given = torch.from_numpy(frames[name]["frames"][mask]).float()
            assert torch.cosine_similarity(vectors[mask], given, dim=-1).min() > 0.99


def test_a_second_run_with_nothing_new_does_nothing_and_says_so(
    mgvr, features: Snapshot, coded: Snapshot, no_ray: None
) -> None:
    before = everything(Path(coded.url))
    codec = [word for name, value in PQ.items() for word in (f"--codec.{name}", value)]
    told = mgvr("recode", "--features", features.url, "--out", coded.url, *codec)
    assert told.code == 0
    assert everything(Path(coded.url)).keys() == before.keys()
    assert told.rows["videos"].startswith("0 coded now, of 12")
    assert "nothing new: 12 videos" in told.rows["feature set"]


def test_the_command_explains_itself_and_its_example_is_one(mgvr, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mgvr("recode", "--help")
    shown = capsys.readouterr().out
    assert "mgvr corpus recode --features runs/features --out runs/coded --codec.values pq --codec.tokens 4" in shown
    assert "mgvr corpus recode jobs/recode.yaml" in shown
    assert "mgvr corpus recode " in mgvr("--help").out
    example = load(RecodeConfig, Path(__file__).parents[2] / "jobs" / "recode.yaml", {}, {"MGVR_DATA": "here"})
    assert (example.features, example.out, example.codec.values) == ("here/features", "here/coded", "pq")


def test_what_is_new_is_coded_with_the_same_codebooks_and_what_is_gone_goes(
    features: Snapshot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FeatureStore(copy_of(features, tmp_path))
    some = sorted(features.sources().values(), key=lambda source: source.key)[:4]
    failure = Failure(some[0].key, None, "read", "network", "gone", 1, "pyav", "2026-01-02T03:04:05+00:00")
    lost = Source(some[0].key, None, None, 7, "mtime:7")  # another file of that name
    store.commit(features.fingerprint, Change(gone=some[1:], sources=[lost], failures=[failure]), {})
    out = tmp_path / "coded"
    few = recode(config(Path(store.url), out, PQ))
    assert (few.rows, few.failed().num_rows) == (8, 1)
    capsys.readouterr()
    whole = recode(config(Path(store.url), out, PQ, snapshot=1))
    assert "4 coded now, of 12" in capsys.readouterr().out
    assert whole.fingerprint.digest == few.fingerprint.digest
    assert plain_rows(whole) == plain_rows(features)
    assert whole.failed().num_rows == 0
    again = recode(config(Path(store.url), out, PQ))
    assert plain_rows(again) == plain_rows(few)
    assert "0 coded now, of 8" in capsys.readouterr().out


def test_a_killed_run_is_gone_on_with(
    features: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed before its commit: the codebooks are not trained again, and nothing is coded twice."""
    asked = config(features, tmp_path / "set", PQ)
    with monkeypatch.context() as patch:
        patch.setattr(recoding, "_land", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            recode(asked)
    store = FeatureStore(asked.out)
    books = [codec.digest for codec in store.codebooks()]
    records = store.storage.entries("pending")
    assert len(records) == len(features.shards)
    store.storage.remove(records[0].name)
    capsys.readouterr()
    made = recode(asked)
    assert 1 <= int(capsys.readouterr().out.partition(" coded now")[0].split()[-1]) <= 5
    assert [codec.digest for codec in store.codebooks()] == books
    assert plain_rows(made) == plain_rows(features)
    assert not store.storage.entries("pending")


def refused(match: str, asked: RecodeConfig) -> None:
    with pytest.raises(MgvrError, match=match):
        recode(asked)


def test_sets_and_codecs_that_do_not_fit_are_refused_before_any_work(
    features: Snapshot, coded: Snapshot, int8: Snapshot, tmp_path: Path, no_ray: None
) -> None:
    out, there = tmp_path / "set", Path(coded.url)
    refused("is coded already: give the set that it was coded from", config(coded, out, INT8))
    refused("is the set that is to be coded", config(features, Path(features.url), PQ))
    refused("a frame has 4 patches; set it lower", config(features, out, {**PQ, "tokens": 4}))
    refused("64 dimensions can't be cut into 7 pieces", config(features, out, {**PQ, "subvectors": 7}))
    refused("holds no feature set", config(tmp_path / "nothing", out, PQ))
    refused("for another codec:\n  tokens: 2 against 1", config(features, there, {**PQ, "tokens": 1}))
    refused("keeps its codebooks, trained with codec.seed 0", config(features, there, {**PQ, "seed": 1}))
    refused("made otherwise", config(features, there, INT8))
    refused("not coded so: choose another", config(features, Path(int8.url), PQ))
    assert not out.exists() or not list(out.rglob("*.parquet"))


def test_a_set_that_is_coded_as_it_is_encoded_is_the_one_that_is_coded_later(
    corpus, model: ModelConfig, int8: Snapshot, tmp_path: Path
) -> None:
    settings = {"corpus": corpus.manifest("test"), "features": {"rows_per_shard": 5, "codec": INT8}}
    made = encode(encode_config(tmp_path / "int8", model, **settings))
    assert made.fingerprint.digest == int8.fingerprint.digest
    assert plain_rows(made).keys() == plain_rows(int8).keys()
    allowed = {"frames": 1, "temporal": 1, "frames_scale": 1e-4, "temporal_scale": 1e-4, "video": 1e-3}
    one, two = arrays(made, *allowed, "patch_counts"), arrays(int8, *allowed, "patch_counts")
    for video in one:
        for name, error in allowed.items():  # batches round differently
            np.testing.assert_allclose(one[video][name].astype(float), two[video][name].astype(float), atol=error)
        assert one[video]["patch_counts"].sum() == two[video]["patch_counts"].sum()


def test_videos_are_encoded_with_the_codebooks_of_another_set(
    corpus, model: ModelConfig, coded: Snapshot, tmp_path: Path
) -> None:
    """And from then on with those of their own."""
    settings: dict[str, Any] = {"corpus": corpus.manifest("test"), "features": {"codec": PQ, "codebooks": coded.url}}
    made = encode(encode_config(tmp_path / "pq", model, **settings))
    assert made.fingerprint.digest == coded.fingerprint.digest
    assert plain_rows(made).keys() == plain_rows(coded).keys()
    assert not verify(made).problems
    settings["features"] = {"codec": PQ}
    maker, _ = prepare_encode(encode_config(tmp_path / "pq", model, **settings))
    assert maker.fingerprint.digest == coded.fingerprint.digest


def test_product_quantisation_without_codebooks_is_refused_before_any_work(
    corpus, model: ModelConfig, make_checkpoint: Callable[..., ModelConfig], features, coded, int8, tmp_path, no_ray
) -> None:
    def refused(match: str, model: ModelConfig = model, out: str = "set", **chosen: Any) -> None:
        with pytest.raises(MgvrError, match=match):
            prepare_encode(encode_config(tmp_path / out, model, corpus=corpus.manifest("test"), features=chosen))

    refused("no feature set to take codebooks from. Product quantisation at encoding needs", codec=PQ)
    refused("no feature set to take codebooks from", out="{fingerprint}", codec=PQ)
    refused("has no codebooks", codec=PQ, codebooks=features.url)
    refused("has no codebooks", codec=PQ, codebooks=int8.url)
    refused("tokens: 2 against 0", codec={"values": "pq", "subvectors": 16}, codebooks=coded.url)
    refused("trained on another model's features", make_checkpoint(seed=5), codec=PQ, codebooks=coded.url)
    refused("features.codebooks is for --features.codec.values pq", codec=INT8, codebooks=coded.url)
    refused("features.codebooks is for --features.codec.values pq", codebooks=coded.url)
    refused("there are no patches to merge", codec=INT8, patches=False)


def test_the_status_tells_the_codec_and_the_bytes_of_a_video(mgvr, features, coded: Snapshot, int8, no_ray) -> None:
    told = mgvr("status", "--features", coded.url)
    assert told.rows["codec"] == "pq, 16 bytes a vector, patches merged into 2 tokens a frame"
    assert told.rows["size"].endswith(f"{coded.bytes / 12 / 1024:.1f} KiB a video")
    assert mgvr("status", "--features", coded.url, "--json").json["codec"] == coded.fingerprint.parts["codec"]
    assert mgvr("status", "--features", int8.url).rows["codec"].startswith("int8, patches merged")
    assert mgvr("status", "--features", features.url).rows["codec"] == "none"


@pytest.mark.parametrize("kind", ["coded", "int8"])
def test_a_coded_set_is_verified_and_a_sample_of_it_encoded_again(
    mgvr, kind: str, request: pytest.FixtureRequest
) -> None:
    made: Snapshot = request.getfixturevalue(kind)
    told = mgvr("verify", "--features", made.url, "--json")
    assert told.code == 0
    assert told.json["encoded_again"] == 4
    assert told.json["smallest_cosine"] > 0.999


def test_shards_of_a_coded_set_that_are_written_anew_stay_coded(coded: Snapshot, tmp_path: Path) -> None:
    """As a commit does where less than half of a shard is left."""
    store = FeatureStore(copy_of(coded, tmp_path))
    largest = max(coded.shards, key=lambda shard: shard.rows)
    gone = [s for s in coded.sources().values() if s.place and s.place.shard == largest.path and s.place.row]
    made = store.commit(coded.fingerprint, Change(gone=gone), {})
    assert largest.path not in {shard.path for shard in made.shards}
    assert made.rows == coded.rows - len(gone)
    assert not verify(made).problems


def test_what_verify_finds_in_a_coded_set(coded: Snapshot, tmp_path: Path) -> None:
    """A promise that the tokens do not keep, and codebooks that are gone."""
    store = FeatureStore(copy_of(coded, tmp_path))
    first = coded.shards[0]
    table = coded.read_shard(first)
    reach = tensor_column(table, "reach").copy()
    reach[1, 2, 2] *= 0.5
    field = table.schema.field("reach")
    worse = pa.Array.from_buffers(field.type, len(table), [None, pa.py_buffer(reach)])
    shard = store.write_shard(table.set_column(table.schema.names.index("reach"), field, worse))
    moved = [s for s in coded.sources().values() if s.place and s.place.shard == first.path]
    store.commit(coded.fingerprint, Change(gone=moved), {})
    there = [replace(s, place=s.place._replace(shard=shard.path)) for s in moved if s.place]
    change = Change(there, shards=[shard])
    broken = store.commit(coded.fingerprint, change, {})
    name = table["id"][1].as_py()
    assert [problem for problem in verify(broken).problems if "reach" in problem] == [
        f"{shard.path}: reach of patches of {name} is not that of its tokens"
    ]
    (books,) = store.storage.entries("codebooks")
    store.storage.remove(books.name)
    assert any(f"{books.name} of snapshot" in problem for problem in verify(broken).problems)


def test_training_refuses_features_that_have_lost_digits(corpus, model: ModelConfig, coded: Snapshot, tmp_path) -> None:
    values = {"out": str(tmp_path), "corpus": corpus.manifest("train"), "model": model, "features": coded.url}
    asked = parse(TrainConfig, {**values, "batch_size": 4, "trained": "heads"}, source="the test")
    with pytest.raises(MgvrError, match="is coded, which loses digits that training would learn from"):
        plan_training(asked)
