"""The same training from clips on disk, from clips decoded on the way, and of heads from features."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mgvr_core.config import parse
from mgvr_core.errors import MgvrError
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.model import checkpoint
from mgvr_core.model.load import ModelConfig
from pipelines import finishing
from pipelines.encode import EncodeConfig, FeaturesConfig, encode
from pipelines.runtime import RayConfig
from pipelines.train import train
from pipelines.train_options import TrainConfig

BATCH, FRAMES = 8, 4


@pytest.fixture(scope="module")
def run(corpus, model: ModelConfig) -> Callable[..., Path]:
    """Trains the untrained model of the other tests."""

    def start(out: Path, **settings: Any) -> Path:
        values = {
            "out": str(out),
            "corpus": corpus.manifest("train"),
            "model": model,
            "batch_size": BATCH,
            "epochs": 1,
            "optimiser": {"lr": 1e-3, "clip_lr_factor": 1.0},
            "compute": {"threads": 1},
            **settings,
        }
        return train(parse(TrainConfig, values, source="the test"))

    return start


@pytest.fixture(scope="module")
def kept(ray_cluster: None, run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kept")
    run(out)
    return out


def steps(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "step"]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in steps(out)]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_clips_decoded_on_the_way_train_as_those_on_disk(kept: Path, run, tmp_path: Path, workers: int) -> None:
    """The same pairs in the same steps: to the bit on one worker."""
    run(tmp_path, clips={"mode": "stream"}, workers=workers)
    assert not (tmp_path / "clips").exists()
    assert losses(tmp_path) == (losses(kept) if workers == 1 else pytest.approx(losses(kept), abs=1e-5))


def test_a_broken_video_on_the_way_costs_its_pairs_alone(
    kept: Path, corpus, run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "uri": str(corpus.folder / row["uri"])} for row in corpus.records("train")]
    (tmp_path / "page.mp4").write_text("<html>")
    rows.insert(5, {"id": "page", "uri": str(tmp_path / "page.mp4"), "captions": ["one", "two", "three"]})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path / "run", corpus={"uri": str(tmp_path / "train.jsonl")}, clips={"mode": "stream"}, epochs=3)
    pairs = [line["pairs"] for line in steps(tmp_path / "run")]
    assert len(pairs) == 3 * (51 // BATCH)
    assert 3 <= sum(BATCH - count for count in pairs) <= 9  # three an epoch, but those that sat out
    printed = capsys.readouterr().out
    assert "page.mp4: not_a_video" in printed
    assert "failed      1 videos" in printed
    report = json.loads((tmp_path / "run" / "training.json").read_text())
    assert [failure["kind"] for failure in report["failures"]] == ["not_a_video"]


def test_one_caption_of_each_video_an_epoch(run, tmp_path: Path) -> None:
    run(tmp_path, captions="sample", epochs=2)
    assert len(steps(tmp_path)) == 2 * (24 // BATCH)


@pytest.mark.parametrize("memory", [{"checkpointing": True}, {"chunk": 3, "patch_videos": 2}])
def test_memory_can_be_saved_without_another_training(kept: Path, run, tmp_path: Path, memory: dict[str, Any]) -> None:
    run(tmp_path, clips={"folder": str(kept / "clips")}, memory=memory)
    assert losses(tmp_path) == pytest.approx(losses(kept), abs=1e-4)


@pytest.fixture(scope="module")
def features(ray_cluster: None, corpus, model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The training videos, in shards that no batch respects."""
    config = EncodeConfig(
        out=str(tmp_path_factory.mktemp("train-features")),
        corpus=corpus.manifest("train"),
        model=model,
        features=FeaturesConfig(rows_per_shard=7),
        ray=RayConfig(cpus=4),
    )
    return encode(config)


def changed(out: Path, start: ModelConfig) -> set[str]:
    """The weights that a training changed, by the first part of their name."""
    before = checkpoint.load(Path(str(start.checkpoint))).model.state_dict()
    after = checkpoint.load(out / "model").model.state_dict()
    return {name.split(".")[0] for name, weights in after.items() if not weights.equal(before[name])}


def test_heads_from_features_train_as_heads_from_videos(
    kept: Path, features: Snapshot, model: ModelConfig, run, tmp_path: Path
) -> None:
    """Within the rounding of half precision. CLIP stays as it was."""
    heads = {"trained": "heads", "epochs": 2}
    run(tmp_path / "videos", clips={"folder": str(kept / "clips")}, **heads)
    run(tmp_path / "features", features=features.url, **heads)
    expected, found = losses(tmp_path / "videos"), losses(tmp_path / "features")
    assert found == pytest.approx(expected, abs=3e-3)
    assert max(expected) - min(expected) > 0.03
    for out in ("videos", "features"):
        assert changed(tmp_path / out, model) == {"temporal", "video_projection", "frame_mixing"}
    assert not (tmp_path / "features" / "clips").exists()


def test_a_set_finds_its_videos_by_uri_and_lists_those_that_it_has_not(
    corpus, features: Snapshot, run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A manifest without ids, with a video that nobody has encoded."""
    rows = [{"uri": str(corpus.folder / row["uri"]), "captions": row["captions"]} for row in corpus.records("train")]
    rows.append({"uri": str(tmp_path / "elsewhere.mp4"), "captions": ["a red circle"]})
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path / "run", corpus={"uri": str(file)}, features=features.url, trained="heads")
    assert json.loads((tmp_path / "run" / "training.json").read_text())["setup"]["videos"] == 24
    assert "elsewhere.mp4: missing" in capsys.readouterr().out


def test_features_of_another_model_are_refused(
    no_ray: None, features: Snapshot, make_checkpoint: Callable[..., ModelConfig], run, tmp_path: Path
) -> None:
    other = make_checkpoint(seed=5)
    with pytest.raises(MgvrError, match=r"were not made by .*\n  weights: "):
        run(tmp_path, model=other, features=features.url, trained="heads")


def test_features_without_the_lengths_of_frames_are_refused(
    no_ray: None, features: Snapshot, commit_tables: Callable[..., Snapshot], run, tmp_path: Path
) -> None:
    """As sets of older versions are."""
    tables = [without_norms(table) for table in features.tables()]
    older = commit_tables(FeatureStore(str(tmp_path / "older")), features.fingerprint, tables)
    with pytest.raises(MgvrError, match=r"24 of 24 videos of .* have no frame_norms"):
        run(tmp_path / "run", features=older.url, trained="heads")


def without_norms(table: pa.Table) -> pa.Table:
    field = table.schema.field("frame_norms")
    storage = pa.nulls(len(table), field.type.storage_type)
    column = pa.ExtensionArray.from_storage(field.type, storage)
    return table.set_column(table.schema.names.index("frame_norms"), field, column)


@pytest.mark.parametrize("roles", [("validation", "test"), ("train", "test"), ("train", "validation")])
def test_splits_that_share_videos_are_refused(
    ray_cluster: None, corpus, run, tmp_path: Path, roles: Sequence[str]
) -> None:
    """Not by their ids, which differ: by what the files hold."""
    one, other = roles
    shared = corpus.records("validation")
    file = tmp_path / "copies.jsonl"
    rows = []
    for row in shared:
        copy = shutil.copy(corpus.folder / row["uri"], tmp_path / f"copy-{row['id']}.mp4")
        rows.append({"id": f"copy-{row['id']}", "uri": str(copy), "captions": row["captions"]})
    if one == "train":
        rows += [{**row, "uri": str(corpus.folder / row["uri"])} for row in corpus.records("train")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    key = {"train": "corpus"}.get(one, one)
    settings = {other: corpus.manifest("validation"), key: {"uri": str(file)}}
    with pytest.raises(
        MgvrError, match=f"(?s)4 videos of the {other} split are in the {one} split too.*allow_test true"
    ):
        run(tmp_path / "run", **settings)


def test_splits_that_share_videos_as_they_are_listed_are_refused_at_once(
    no_ray: None, corpus, run, tmp_path: Path
) -> None:
    with pytest.raises(MgvrError, match=r"(?s)4 videos of the test split are in the validation split too"):
        run(tmp_path / "run", validation=corpus.manifest("validation"), test=corpus.manifest("validation"))


@pytest.mark.parametrize("name", ["test.jsonl", "MSRVTT_JSFUSION_test.jsonl", "my-Testing-2.jsonl"])
def test_a_test_split_by_its_name_is_not_selected_on(no_ray: None, corpus, run, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text((corpus.folder / "validation.jsonl").read_text())
    with pytest.raises(MgvrError, match=r"(?s)a test split by its name.*allow_test true"):
        run(tmp_path / "run", validation={"uri": str(file), "root": str(corpus.folder)})


def test_selection_on_the_test_split_is_written_on_everything(
    ray_cluster: None,
    corpus,
    run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it was asked for by name. The test split is measured, with the ranks behind the figures."""
    splits = {"validation": corpus.manifest("test"), "test": corpus.manifest("test")}
    out = run(tmp_path, **splits, selection={"allow_test": True}, fusion="released")
    warnings = checkpoint.load(out).about["warnings"]
    assert any("is a test split by its name" in line for line in warnings)
    assert any("12 videos of the test split are in the validation split too" in line for line in warnings)
    assert "is a test split by its name" in capsys.readouterr().out
    assert "is a test split by its name" in (tmp_path / "training.html").read_text()
    ranks = pq.read_table(tmp_path / "test.parquet")
    assert ranks.num_rows == 24
    assert {"rank_video", "rank_fused", "rank_tib_frame"} <= set(ranks.schema.names)
    report = json.loads((tmp_path / "training.json").read_text())
    fused = sum(rank <= 1 for rank in ranks["rank_fused"].to_pylist()) / 24
    assert report["test"]["R@1 fused"]["value"] == pytest.approx(fused)
    assert report["fusion"] == {
        "weights": {"video": 0.5, "frame_weak": 0.8, "tib_frame": 0.2, "patch_weak": 0.2, "tib_patch": 0.0},
        "origin": "released",
    }

    # The same command again tells the same, and measures nothing.
    monkeypatch.setattr(finishing, "_measure", lambda *_: pytest.fail("a test split was measured again"))
    run(tmp_path, **splits, selection={"allow_test": True}, fusion="released")
    assert json.loads((tmp_path / "training.json").read_text())["test"] == report["test"]
