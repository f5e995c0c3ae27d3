"""mgvr train --scorer: heads on stored features, on one worker or two, and from wherever a run was killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml

from mgvr_core.config import parse
from mgvr_core.errors import JobError, MgvrError
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.model.tokenizer import tokenizer_of
from mgvr_core.scorers import scorer
from mgvr_core.training.head_files import load_head, read_head
from pipelines import heads
from pipelines.head_plan import plan
from pipelines.head_worker import HeadTrainer
from pipelines.heads import HeadConfig, train_head
from pipelines.models import model_fingerprint

BATCH, EPOCHS, VALIDATION = 6, 2, 4
"""Pairs a batch; and of the twelve videos of the set, two captions each, how many are validation's."""
Config = Callable[..., HeadConfig]


@pytest.fixture(scope="module")
def manifests(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The videos of the feature set in two manifests, one of which also has a video that nobody has encoded."""
    folder = tmp_path_factory.mktemp("manifests")
    rows = [{**row, "uri": str(corpus.folder / row["uri"])} for row in corpus.records("test")]
    elsewhere = {"id": "elsewhere", "uri": str(folder / "elsewhere.mp4"), "captions": ["a red circle"]}
    splits = {"train": [*rows[VALIDATION:], elsewhere], "validation": rows[:VALIDATION]}
    for name, part in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


@pytest.fixture(scope="module")
def config(manifests: Path, features: Snapshot, model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Config:
    data = tmp_path_factory.mktemp("data")

    def build(out: Path, **settings: Any) -> HeadConfig:
        values = {
            "out": str(out),
            "scorer": "drl",
            "features": features.url,
            "corpus": {"uri": str(manifests / "train.jsonl")},
            "validation": {"uri": str(manifests / "validation.jsonl")},
            "model": model,
            "batch_size": BATCH,
            "epochs": EPOCHS,
            "data": str(data),
            "compute": {"threads": 1},
            **settings,
        }
        return parse(HeadConfig, values, source="the test")

    return build


@pytest.fixture(scope="module")
def trained(ray_cluster: None, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    assert train_head(config(out)) == out / "head"
    return out


def records(out: Path, kind: str) -> list[dict[str, Any]]:
    """What was logged, but its times."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name != "seconds"} for line in lines if line["kind"] == kind
    ]


def test_the_head_of_the_best_epoch_is_what_others_load(trained: Path, config: Config, features: Snapshot) -> None:
    planned = plan(config(trained))
    head = read_head(trained / "head")
    epochs = records(trained, "epoch")
    best = max(epochs, key=lambda row: (row["R@1_validation"], -row["epoch"]))
    assert head.about["chosen"] == best
    assert head.about["epochs"] == epochs
    assert head.about["missing"] == [str(Path(config(trained).corpus.uri).parent / "elsewhere.mp4")]
    assert head.scorer == "drl"
    assert head.sizes == planned.setting.sizes
    loaded = load_head(trained / "head", features.fingerprint, planned.setting)
    assert head.about["parameters"] == sum(weight.numel() for weight in loaded.parameters())
    fresh = dict(type(loaded)(planned.setting).named_parameters())
    assert any(not torch.equal(weight, fresh[name]) for name, weight in loaded.named_parameters())
    assert {file.name for file in trained.iterdir()} == {"head", "metrics.jsonl", "run.json"}


def test_every_step_and_epoch_is_logged(trained: Path) -> None:
    steps, epochs = records(trained, "step"), records(trained, "epoch")
    per_epoch = 2 * (12 - VALIDATION) // BATCH
    assert [row["step"] for row in steps] == list(range(1, EPOCHS * per_epoch + 1))
    assert [(row["epoch"], row["step"], row["pool"]) for row in epochs] == [
        (epoch, epoch * per_epoch, VALIDATION) for epoch in range(1, EPOCHS + 1)
    ]
    for row in epochs:
        mine = [step["loss"] for step in steps if step["epoch"] == row["epoch"]]
        assert row["loss"] == pytest.approx(sum(mine) / len(mine))
        assert 8 * row["R@1_validation"] == pytest.approx(round(8 * row["R@1_validation"]))  # of eight captions


@pytest.mark.slow
def test_two_workers_take_the_same_steps(trained: Path, config: Config, tmp_path: Path) -> None:
    """And the data that the first run left is taken as it is."""
    data = Path(str(config(tmp_path).data))
    before = {file: file.stat().st_mtime_ns for file in data.rglob("*.npy")}
    assert before
    train_head(config(tmp_path, workers=2))
    assert {file: file.stat().st_mtime_ns for file in data.rglob("*.npy")} == before
    expected, found = records(trained, "step"), records(tmp_path, "step")
    for name in ("loss", "lr", "grad_norm"):
        assert [row[name] for row in found] == pytest.approx([row[name] for row in expected], abs=1e-5, rel=1e-4)
    assert records(tmp_path, "epoch")[-1]["R@1_validation"] == records(trained, "epoch")[-1]["R@1_validation"]


def test_texts_and_videos_reach_the_scorer_as_they_are(
    trained: Path, config: Config, features: Snapshot, model: ModelConfig
) -> None:
    """Each caption beside its own video, words as the model makes them, and nothing that the scorer does not read."""
    settings = config(trained)
    planned = plan(settings)
    task = heads.task_of(settings, planned)
    trainer = HeadTrainer(task, rank=0, workers=1)
    captioned = task.train.captioned
    rows = trainer.batches.shares(1, 0, rank=0, workers=1)[1]
    texts, videos = trainer.arrays.pairs(rows)
    loaded = load_model(model).model
    captions = [captioned.captions[row] for row in rows]
    tokens = tokenizer_of(loaded.spec)(captions, loaded.spec.text_length).ids
    with torch.inference_mode():
        vector, words, mask = loaded.encode_words(tokens)
    assert texts.words is not None
    assert texts.word_mask is not None
    assert texts.vector == pytest.approx(vector, abs=1e-6)
    assert texts.words == pytest.approx(words, abs=1e-6)
    assert torch.equal(texts.word_mask, mask)
    stored = {row["id"]: row for table in features.tables(["id", "temporal", "mask"]) for row in rows_of(table)}
    mine = [stored[captioned.ids[captioned.owner[row]]] for row in rows]
    assert torch.equal(videos.temporal, torch.tensor([row["temporal"] for row in mine]).view_as(videos.temporal))
    assert videos.mask.tolist() == [[bool(value) for value in row["mask"]] for row in mine]
    assert videos.patches is None
    assert "patches" not in task.train.columns


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    return [
        {name: value.as_py() if name == "id" else value.to_numpy().ravel().tolist() for name, value in row.items()}
        for row in ({name: table[name][at] for name in table.schema.names} for at in range(len(table)))
    ]


def test_an_epoch_after_a_kill_is_the_one_that_would_have_been(trained: Path, config: Config, tmp_path: Path) -> None:
    """To the bit: what a worker does that finds a checkpoint."""
    settings = config(tmp_path)
    planned = plan(settings)
    task = heads.task_of(settings, planned)
    first = HeadTrainer(task, rank=0, workers=1)
    losses = [record["loss"] for record in first.epoch(0)]
    first.end_epoch(0, sum(losses) / len(losses))
    second = HeadTrainer(task, rank=0, workers=1)
    second.resume()
    assert second.progress == first.progress
    losses += [record["loss"] for record in second.epoch(1)]
    assert losses == [row["loss"] for row in records(trained, "step")]


def test_a_run_that_is_done_is_not_done_again(
    no_ray: None, trained: Path, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor by other means: what does not change the steps may change."""
    before = (trained / "metrics.jsonl").read_text()
    assert train_head(config(trained, workers=3)) == trained / "head"
    printed = capsys.readouterr().out
    assert "there is nothing to do" in printed
    assert "elsewhere.mp4" in printed
    assert (trained / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimiser": {"lr": 1e-2}}, r"(?s)holds another run.*optimiser: .*--restart yes"),
        ({"scorer": "x_pool"}, r"holds another run:\n  scorer: "),
        ({"validation": None}, r"holds another run:\n  data: "),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    no_ray: None, trained: Path, config: Config, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(MgvrError, match=message):
        train_head(config(trained, **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scorer": "x_pol"}, r"no scorer 'x_pol'; did you mean x_pool\?"),
        ({"scorer": "mean_pool"}, r"mean_pool has no weights of its own, so there is nothing to train"),
        ({"batch_size": 17}, r"an epoch of 16 pairs makes no batch of 17"),
        ({"workers": 7}, r"batch_size of 6 leaves some of 7 workers without a pair"),
        ({"compute": {"precision": "bfloat16"}}, r"scorers are trained in float32"),
        ({"validation": None, "validation_features": "somewhere"}, r"validation_features are there, but no validation"),
        ({"patches": True}, r"patches: unknown key"),
    ],
)
def test_what_can_t_be_trained_is_refused(
    no_ray: None, config: Config, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(MgvrError, match=message):
        train_head(config(tmp_path, **settings))
    assert not list(tmp_path.iterdir())


def test_features_of_another_model_are_refused(
    no_ray: None, config: Config, make_checkpoint: Callable[..., ModelConfig], tmp_path: Path
) -> None:
    with pytest.raises(MgvrError, match=r"were not made by .*\n  weights: "):
        train_head(config(tmp_path, model=make_checkpoint(seed=5)))


def test_splits_that_share_videos_are_refused(no_ray: None, config: Config, manifests: Path, tmp_path: Path) -> None:
    with pytest.raises(MgvrError, match=r"(?s)8 videos of the validation split are in the train split.*leave it out"):
        train_head(config(tmp_path, validation={"uri": str(manifests / "train.jsonl")}))


def test_videos_that_the_set_does_not_hold_are_no_training(
    no_ray: None, corpus, config: Config, tmp_path: Path
) -> None:
    with pytest.raises(MgvrError, match=r"none of the 24 training videos is in .*neither by its id nor by its uri"):
        train_head(config(tmp_path, corpus=corpus.manifest("train")))


@pytest.fixture
def changed_set(features: Snapshot, commit_tables: Callable[..., Snapshot], tmp_path: Path) -> Callable[..., Snapshot]:
    """The features without a column, or as another fingerprint has them."""

    def make(without: str | None = None, **parts: Any) -> Snapshot:
        fingerprint = Fingerprint({**features.fingerprint.parts, **parts})
        tables = []
        for table in features.tables():
            kept = table if without is None else table.drop_columns([without])
            metadata = {**kept.schema.metadata, b"mgvr.fingerprint": json.dumps(dict(fingerprint.parts))}
            tables.append(kept.replace_schema_metadata(metadata))
        return commit_tables(FeatureStore(str(tmp_path / "changed")), fingerprint, tables)

    return make


def test_a_scorer_of_patches_needs_them(
    no_ray: None, config: Config, changed_set: Callable[..., Snapshot], tmp_path: Path
) -> None:
    url = changed_set(without="patches").url
    with pytest.raises(MgvrError, match=r"ucofia reads patches, which .* has not: encode with --features.patches true"):
        train_head(config(tmp_path / "run", scorer="ucofia", features=url))
    with pytest.raises(MgvrError, match=r"patches=0.* but .*patches=4"):
        train_head(config(tmp_path / "run", validation_features=url))


def test_coded_features_are_refused(
    no_ray: None, config: Config, changed_set: Callable[..., Snapshot], tmp_path: Path
) -> None:
    codec = {"values": "fp16", "tokens": 0, "subvectors": None, "rotate": None, "codebooks": None, "version": 1}
    with pytest.raises(MgvrError, match=r"is coded, which loses digits that training would learn from"):
        train_head(config(tmp_path / "run", features=changed_set(codec=codec).url))


def test_a_loss_that_is_no_number_ends_the_training(
    trained: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path)
    trainer = HeadTrainer(heads.task_of(settings, plan(settings)), rank=0, workers=1)
    steps = trainer.epoch(0)
    next(steps)
    monkeypatch.setattr(scorer, "cross_entropy", lambda scores, *_, **__: scores.sum() * torch.nan)
    with pytest.raises(JobError, match=r"step 2: loss and grad_norm of drl not finite.*Lower --optimiser.lr"):
        next(steps)


@pytest.mark.parametrize(("restart", "lr"), [("changed", 2e-3), ("yes", 1e-3)])
def test_a_run_is_thrown_away_where_that_was_asked_for(
    trained: Path,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    restart: str,
    lr: float,
) -> None:
    """All of it, and nothing else: neither its head nor its checkpoints are taken for the new run's."""
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    (out / "checkpoints" / "step-00000002").mkdir(parents=True)
    (out / "notes.txt").touch()
    assert train_head(config(out, restart="changed")) == out / "head"  # it has not changed
    seen: list[set[str]] = []
    monkeypatch.setattr(heads, "fit", lambda *_: seen.append({file.name for file in out.iterdir()}))
    with pytest.raises(JobError, match=r"holds no checkpoint of step 4"):  # nobody has trained
        train_head(config(out, restart=restart, optimiser={"lr": lr}))
    assert seen == [{"notes.txt", "run.json"}]


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_epoch(
    config: Config, features: Snapshot, model: ModelConfig, tmp_path: Path
) -> None:
    """The driver and all of its processes, by SIGKILL: the same command, the losses of a run that nobody disturbed."""
    epochs = 300

    def start(name: str) -> tuple[Path, subprocess.Popen[bytes]]:
        out = tmp_path / name
        file = tmp_path / f"{name}.yaml"
        values = config(out, epochs=epochs, ray={"cpus": 4}).model_dump(mode="json")
        file.write_text(yaml.safe_dump(values))
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        command = [sys.executable, "-m", "pipelines.heads", str(file)]
        return out, subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environment, start_new_session=True)

    out, process = start("killed")
    until = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() or len(records(out, "epoch")) < 5:
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(records(out, "epoch")) < epochs
    _, process = start("killed")
    assert process.wait(timeout=120) == 0
    calm, process = start("calm")
    assert process.wait(timeout=120) == 0
    assert len(records(out, "resume")) == 1
    assert records(out, "step") == records(calm, "step")
    assert records(out, "epoch") == records(calm, "epoch")
    setting = replace(plan(config(calm, epochs=epochs)).setting)
    made_by = model_fingerprint(load_model(model).model)
    one, other = (load_head(folder / "head", made_by, setting) for folder in (out, calm))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
