"""mgvr train against itself: what waiting for data costs, what a second worker brings, what features save.

A procedural corpus and towers of the demo's size. All figures are taken from the logs of whole trainings in one run on
one machine; the first steps of each are left out, in which memory is mapped and kernels are chosen.

- Waiting: the share of the steps' time that the model waited for its batch, with clips kept on disk and with clips
  decoded on the way. On two cores decoders and model share them, so the second says how far a small machine is from
  decoding on the way; on a cluster the decoders have nodes of their own.
- Two workers with one thread each against one worker with two: pairs a second.
- Heads from features against heads from videos: pairs a second.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mgvr_core.config import parse
from mgvr_core.datasets.procedural import write_manifests, write_videos
from mgvr_core.datasets.scenes import ProceduralConfig
from mgvr_core.model.load import ModelConfig
from pipelines.encode import EncodeConfig, encode
from pipelines.runtime import RayConfig, cluster
from pipelines.train import train
from pipelines.train_options import TrainConfig

CORPUS = ProceduralConfig(train=320, validation=1, test=1)
BATCH, EPOCHS, WARM = 64, 3, 10
FRAMES = 8
MODEL = {
    "architecture": {
        "embed_dim": 128,
        "quick_gelu": False,
        "init_logit_scale": math.log(20),
        "vision_cfg": {"image_size": 48, "patch_size": 16, "width": 128, "head_width": 64, "layers": 3},
        "text_cfg": {"context_length": 24, "width": 128, "heads": 2, "layers": 2},
    },
    "vocabulary": "captions",
    "temporal_layers": 1,
    "frames": FRAMES,
    "text_length": 24,
}
THREADS = 2


class Course(NamedTuple):
    """A training's log, without its first steps."""

    pairs_per_s: float
    waiting: float


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The corpus, and a Ray for all trainings."""
    place = tmp_path_factory.mktemp("training")
    write_manifests(place, CORPUS)
    write_videos(place, CORPUS, "train", range(CORPUS.train))
    with cluster(RayConfig(cpus=max(4, os.cpu_count() or 1))):
        yield place


def run(folder: Path, name: str, **settings: Any) -> Course:
    out = folder / name
    values = {
        "out": str(out),
        "corpus": {"uri": str(folder / "train.jsonl")},
        "model": MODEL,
        "sampling": {"strategy": "uniform", "frames": FRAMES},
        "optimiser": {"lr": 1e-3, "clip_lr_factor": 1.0},
        "clips": {"folder": str(folder / "clips")},
        "batch_size": BATCH,
        "epochs": EPOCHS,
        "checkpoints": {"every_steps": None},
        "compute": {"threads": THREADS},
        **settings,
    }
    train(parse(TrainConfig, values, "the benchmark"))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"][WARM:]
    seconds = sum(step["seconds"] for step in steps)
    return Course(sum(step["pairs"] for step in steps) / seconds, sum(step["wait_seconds"] for step in steps) / seconds)


def test_waiting_for_data_and_a_second_worker(folder: Path) -> None:
    one = run(folder, "one")
    two = run(folder, "two", workers=2, compute={"threads": THREADS // 2})
    streamed = run(folder, "streamed", clips={"mode": "stream"}, captions="sample", epochs=3 * EPOCHS)
    print(
        f"\nwaiting for data, share of the steps' time: clips on disk {one.waiting:.3f}, two workers {two.waiting:.3f}"
    )
    print(f"                                            clips decoded on the way {streamed.waiting:.3f}")
    print(f"two workers / one, {THREADS} threads in all: {two.pairs_per_s / one.pairs_per_s:.2f} pairs a second")
    print(f"clips decoded on the way / on disk: {streamed.pairs_per_s / one.pairs_per_s:.2f} pairs a second")


def test_heads_from_features(folder: Path) -> None:
    start = ModelConfig(checkpoint=str(folder / "one" / "model"))
    features = encode(
        EncodeConfig.model_validate(
            {"out": str(folder / "features"), "corpus": {"uri": str(folder / "train.jsonl")}, "model": start}
        )
    )
    videos = run(folder, "heads", model=start, trained="heads")
    stored = run(folder, "stored", model=start, trained="heads", features=features.url)
    print(f"\nheads from features / from videos: {stored.pairs_per_s / videos.pairs_per_s:.1f} pairs a second")
    print(f"waiting for data: from videos {videos.waiting:.3f}, from features {stored.waiting:.3f}")
