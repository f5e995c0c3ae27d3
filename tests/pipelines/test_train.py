"""mgvr train: broken videos cost themselves, clips are decoded once, and a seed is a training."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_jobs import ARCHITECTURE, FRESH
from small_jobs import SAMPLING as SETTINGS

from mgvr_core.config import parse
from mgvr_core.errors import JobError, MgvrError
from mgvr_core.model import checkpoint
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.scoring.fusion import FusionWeights
from mgvr_core.training import state
from mgvr_core.video import decoders
from mgvr_core.video.sampling import SamplingConfig
from pipelines import clips as clips_module
from pipelines import train as job
from pipelines.kept import Kept
from pipelines.models import sampling_for
from pipelines.train import train
from pipelines.train_options import TrainConfig

BATCH, EPOCHS = 16, 2
SAMPLING = SamplingConfig(**SETTINGS)


@pytest.fixture(scope="module")
def manifest(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training split, with two videos that can't be decoded and one that is there twice."""
    folder = tmp_path_factory.mktemp("training")
    rows = [{**row, "uri": str(corpus.folder / row["uri"])} for row in corpus.records("train")]
    (folder / "empty.mp4").touch()
    (folder / "page.mp4").write_text("<html>")
    rows.insert(3, {"id": "empty", "uri": str(folder / "empty.mp4"), "captions": ["nothing"]})
    rows.insert(9, {"id": "page", "uri": str(folder / "page.mp4"), "captions": ["words", "more words"]})
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def run(corpus, manifest: Path) -> Callable[..., Path]:
    def start(out: Path, **settings: Any) -> Path:
        values = {
            "out": str(out),
            "corpus": {"uri": str(manifest)},
            "validation": corpus.manifest("validation"),
            "model": FRESH,
            "sampling": SAMPLING,
            "batch_size": BATCH,
            "epochs": EPOCHS,
            "optimiser": {"lr": 1e-3, "clip_lr_factor": 1.0},
            **settings,
        }
        return train(parse(TrainConfig, values, source="the test"))

    return start


def records(out: Path, kind: str) -> list[dict[str, Any]]:
    """What was logged, but its times."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if "seconds" not in name} for line in lines if line["kind"] == kind
    ]


@pytest.fixture(scope="module")
def trained(ray_cluster: None, run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    assert run(out) == out / "model"
    return out


def test_every_step_and_epoch_is_logged(trained: Path) -> None:
    steps, epochs = records(trained, "step"), records(trained, "epoch")
    assert [line["step"] for line in steps] == list(range(1, 7))
    assert [(line["epoch"], line["step"]) for line in epochs] == [(1, 3), (2, 6)]
    parts = {"loss", "loss_weak", "loss_strong", "loss_pearson"}
    for line in steps:
        assert line["loss"] == pytest.approx(
            0.8 * line["loss_weak"] + 0.2 * line["loss_strong"] + 0.001 * line["loss_pearson"], rel=1e-5
        )
        assert line["pairs"] == BATCH
        assert line["lr"] == line["lr_clip"] > 0
        assert all(math.isfinite(value) for name, value in line.items() if name != "kind")
    scores = {f"R@1_{name}" for name in ("video", "frame_weak", "tib_frame", "patch_weak", "fused", "released")}
    for line in epochs:
        assert set(line) == {"kind", "epoch", "step", "pairs", "fusion", "fitted", *parts, *scores}
        assert all(0 <= line[name] <= 1 for name in scores)
        mine = [step for step in steps if step["epoch"] == line["epoch"]]
        for name in parts:
            assert line[name] == pytest.approx(sum(step[name] for step in mine) / len(mine))
    assert steps[0]["loss"] < 2 * math.log(BATCH)


def test_the_log_is_there_for_tensorboard(trained: Path) -> None:
    assert any(file.stat().st_size > 1000 for file in (trained / "tensorboard").iterdir())


def test_the_checkpoint_is_what_the_other_jobs_take(trained: Path) -> None:
    """Trained weights, with the frame sampling that it was trained on."""
    model = ModelConfig(checkpoint=str(trained / "model"))
    loaded = load_model(model)
    start = checkpoint.load(trained / "start")
    changed = {
        name
        for name, weights in loaded.model.state_dict().items()
        if not torch.equal(weights, start.model.state_dict()[name])
    }
    assert {"video_projection", "frame_mixing", "clip.visual.proj", "clip.text_projection"} <= changed
    assert sampling_for(loaded, SamplingConfig()) == SAMPLING
    best = max(records(trained, "epoch"), key=lambda line: (line["R@1_fused"], -line["step"]))
    assert (loaded.about["epochs"], loaded.about["step"]) == (best["epoch"], best["step"])
    assert loaded.about["fusion"] == best["fusion"]
    assert set(loaded.about["fusion"]) == set(FusionWeights.model_fields)
    assert loaded.about["warnings"] == []
    assert {"torch", "ray", "av"} <= loaded.about["versions"].keys()
    assert not loaded.model.training
    words = loaded.model.spec.tokenizer.vocabulary
    assert {"nothing", "words"} <= set(words)  # of all captions, also those whose video is broken


def test_all_clips_but_the_broken_are_kept_as_they_were_decoded(trained: Path, corpus) -> None:
    stored = Kept([str(path) for path in sorted(trained.glob("clips/*/*.arrow"))])
    names = [row["id"] for split in ("train", "validation") for row in corpus.records(split)]
    assert sorted(stored.place) == sorted(names)
    clips = stored.read(names[::5])
    assert clips.mask.all()
    assert clips.pixels is not None
    for name, frames in zip(names[::5], clips.pixels.numpy(), strict=True):
        path = corpus.folder / name.rsplit("-", 1)[0] / f"{name}.mp4"
        assert np.array_equal(frames, decoders.decode("pyav", decoders.Request(str(path), SAMPLING, 32)).frames)


def test_a_run_that_is_done_is_not_done_again(
    trained: Path, run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command only says what there is; what failed is listed again."""
    logged = (trained / "metrics.jsonl").read_text()
    monkeypatch.setattr(job, "fit", lambda *_: pytest.fail("a training that was done was done again"))
    assert run(trained) == trained / "model"
    assert (trained / "metrics.jsonl").read_text() == logged
    printed = capsys.readouterr().out
    assert "48 captions of 24 videos" in printed
    assert "empty.mp4: empty" in printed
    assert "page.mp4: not_a_video" in printed
    assert "failed      2 videos" in printed
    assert str(trained / "model") in printed


def test_the_same_seed_is_the_same_training(trained: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun again in its folder it finds its clips, decodes nothing, and comes to the same bits."""
    before = {path: path.stat().st_mtime_ns for path in trained.glob("clips/**/*")}
    logged = records(trained, "step"), records(trained, "epoch")
    weights = (trained / "model" / "model.safetensors").read_bytes()
    monkeypatch.setattr(clips_module, "progress", lambda *_: pytest.fail("clips that are there were decoded again"))
    run(trained, restart="yes")
    assert {path: path.stat().st_mtime_ns for path in trained.glob("clips/**/*")} == before
    assert (records(trained, "step"), records(trained, "epoch")) == logged
    assert (trained / "model" / "model.safetensors").read_bytes() == weights


def test_a_folder_with_another_run_is_left_alone(trained: Path, run) -> None:
    """Settings that are checked before Ray starts, and data that are known after."""
    with pytest.raises(MgvrError, match=r"holds another run:\n  epochs: 2 against 3\n.*--restart yes"):
        run(trained, epochs=EPOCHS + 1)
    with pytest.raises(MgvrError, match=r"holds another run:\n  data: "):
        run(trained, validation=None)
    assert records(trained, "epoch")[-1]["epoch"] == EPOCHS


def test_two_workers_train_as_one(trained: Path, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every worker has half of the rows of each batch, and all of its negatives. Clips may move with their folder."""
    shutil.copytree(trained / "clips", tmp_path / "clips")
    monkeypatch.setattr(clips_module, "progress", lambda *_: pytest.fail("clips that are there were decoded again"))
    run(tmp_path, workers=2)
    for one, two in zip(records(trained, "step"), records(tmp_path, "step"), strict=True):
        for name in ("loss", "loss_weak", "loss_strong", "loss_pearson"):
            assert two[name] == pytest.approx(one[name], abs=1e-4)


def test_a_loss_that_is_not_finite_ends_the_run_at_once(ray_cluster: None, trained: Path, run, tmp_path: Path) -> None:
    """It would come again with every new start of the workers. What was learned before is kept."""
    with pytest.raises(JobError, match=r"step 2: loss.* is not finite .*[Ll]ower optimiser\.lr"):
        run(
            tmp_path,
            clips={"folder": str(trained / "clips")},
            optimiser={"lr": 1e20, "clip_lr_factor": 1.0},
            checkpoints={"every_steps": 1},
        )
    assert state.steps(tmp_path / "checkpoints") == [1]
    assert not records(tmp_path, "resume")


@pytest.mark.slow
def test_an_error_of_one_worker_ends_them_all(ray_cluster: None, trained: Path, run, tmp_path: Path) -> None:
    """Rank 0 alone reads the log; the other would wait for it in its first step."""
    (tmp_path / "metrics.jsonl").write_text('{"kind"\n{"kind": "step", "step": 1}\n')
    with pytest.raises(JobError, match=r"metrics\.jsonl, line 1 is not JSON"):
        run(tmp_path, clips={"folder": str(trained / "clips")}, workers=2)


RESNET = {
    **ARCHITECTURE,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 64}, r"an epoch of 51 pairs makes no batch of 64: lower --batch_size"),
        ({"batch_size": 9, "workers": 2}, r"batch_size 9 can't be shared equally by 2 workers"),
        ({"decoding": {"decoder": "ffmpeg"}}, "no video decoder is called 'ffmpeg'"),
        ({"compute": {"device": "gpu"}}, r"compute\.device"),
        ({"sampling": {"strategy": "uniform", "frames": 6}}, "trained at 4 frames, but the videos have 6"),
        ({"model": {**FRESH, "architecture": RESNET}}, r"no patch features: set --loss\.patch_weak 0"),
        ({"validation": {"uri": "nowhere.jsonl"}}, "nowhere.jsonl"),
        ({"trained": 5}, "the image tower has 1 blocks, not 5"),
        ({"features": "somewhere"}, "set --trained heads"),
        ({"rerank": dict.fromkeys(FusionWeights.model_fields, 0.0)}, "all weights are 0"),
        ({"selection": {"metric": "tib_patch"}}, "selection.metric is tib_patch, but rerank has only"),
        ({"captions": "sample", "batch_size": 32}, "an epoch of 26 pairs makes no batch of 32"),
        ({"seed": -1}, "seed"),
        ({"loss": {"weak": 0, "strong": 0, "pearson": 0}}, "nothing to learn from"),
        ({"loss": {"video": 0, "frame_weak": 0, "strong": 0, "pearson": 0}, "trained": "heads"}, "no head is trained"),
        ({"workers": 8, "ray": {"cpus": 4}}, "8 workers, but this machine has 4 logical CPUs: lower --workers"),
    ],
)
def test_what_can_be_checked_is_checked_before_ray_starts(
    no_ray: None, run, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(MgvrError, match=message):
        run(tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("role", ["corpus", "validation"])
def test_a_video_without_a_caption_is_named_before_ray_starts(no_ray: None, run, tmp_path: Path, role: str) -> None:
    file = tmp_path / "captions.csv"
    file.write_text("id,uri,caption\na,a.mp4,a red circle\nb,b.mp4,\n")
    with pytest.raises(MgvrError, match=r"captions\.csv.*b\.mp4 has no caption"):
        run(tmp_path / "out", **{role: {"uri": str(file)}})


def test_the_start_is_a_function_of_its_seed() -> None:
    """What two trainings share before their first step."""
    config = parse(ModelConfig, FRESH, source="the test")
    one, same = (load_model(config, ["a red circle"]).model.state_dict() for _ in range(2))
    other = load_model(config.model_copy(update={"seed": 1}), ["a red circle"]).model.state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["clip.visual.proj"], other["clip.visual.proj"])
