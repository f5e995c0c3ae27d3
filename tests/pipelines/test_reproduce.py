"""docs/reproduce.md's two commands on a stand-in of the same layout: a small released checkpoint, and a few videos."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from small_jobs import ARCHITECTURE

from mgvr_core.model.eercf import EERCF
from mgvr_core.model.released import _released_name
from mgvr_core.model.spec import ModelSpec
from pipelines import dataset, sweep

SWEEP = Path(__file__).resolve().parents[2] / "jobs/sweeps/msrvtt-1ka.yaml"
LISTED, THERE = 10, 9


@pytest.fixture
def msrvtt(corpus, tmp_path: Path) -> Path:
    """The test list of ten videos, of which nine are there, in a folder below the one that is named."""
    folder = tmp_path / "msrvtt"
    (folder / "videos/all").mkdir(parents=True)
    records = corpus.records("test")[:LISTED]
    with (folder / "MSRVTT_JSFUSION_test.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "vid_key", "video_id", "sentence"])
        for number, record in enumerate(records):
            rows.writerow([f"ret{number}", f"msr{7010 + number}", f"video{7010 + number}", record["captions"][0]])
    for number, record in enumerate(records[:THERE]):
        shutil.copy(corpus.folder / record["uri"], folder / f"videos/all/video{7010 + number}.mp4")
    return folder


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A checkpoint under the authors' names, of 12 frames and CLIP's vocabulary."""
    text = {**ARCHITECTURE["text_cfg"], "context_length": 32, "vocab_size": 49408}
    vision = {**ARCHITECTURE["vision_cfg"], "head_width": 64}
    spec = ModelSpec(
        architecture={**ARCHITECTURE, "vision_cfg": vision, "text_cfg": {**text, "heads": 1}},
        frames=12,
        temporal_layers=1,
        temporal_positions=32,
    )
    torch.manual_seed(0)
    file = tmp_path / "checkpoint.bin"
    torch.save({_released_name(name): tensor for name, tensor in EERCF(spec).state_dict().items()}, file)
    return file


@pytest.mark.slow
def test_both_commands_and_a_figure_that_is_not_the_published_one(
    ray_cluster: None,
    msrvtt: Path,
    released: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EERCF_CHECKPOINT", str(released))
    words = ["msrvtt-1ka", "--annotations", str(msrvtt), "--videos", str(msrvtt / "videos"), "--out", "runs/msrvtt"]
    assert dataset.run(words) == 0
    assert "video7019" in capsys.readouterr().out  # the missing one
    assert sweep.run([str(SWEEP)]) == 1
    shown = capsys.readouterr()
    assert "FAIL  eercf on 50, released: R@1" in shown.err
    found = json.loads(Path("runs/msrvtt/sweep/systems.json").read_text())
    rows = {system["name"]: system for system in found["systems"]}
    assert set(rows) == {"coarse", "eercf on 50, released", "eercf, released"}
    assert {system["pool"] for system in found["systems"]} == {THERE}
    # Nine candidates are all there are.
    assert rows["eercf on 50, released"]["figures"] == rows["eercf, released"]["figures"]
    assert "MSR-VTT" in json.dumps(found["protocol"])
