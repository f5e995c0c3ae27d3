"""mgvr sweep: every row on every seed, what is done stays done, and what is wrong is said before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_jobs import FRESH, SAMPLING

from mgvr_core.config import load, parse
from mgvr_core.errors import JobError, MgvrError
from pipelines import sweep_trainings as job
from pipelines.options import given_keys
from pipelines.sweep_trainings import SweepConfig, cells_of, sweep

ROOT = Path(__file__).resolve().parents[2]
COARSE = {"loss.frame_weak": 0, "loss.patch_weak": 0, "loss.strong": 0, "loss.pearson": 0}
ONLY_VIDEO = {"rerank.frame_weak": 0, "rerank.tib_frame": 0, "rerank.patch_weak": 0}


@pytest.fixture
def settings(corpus, tmp_path: Path) -> dict[str, Any]:
    return {
        "out": str(tmp_path / "sweep"),
        "base": {
            "corpus": corpus.manifest("train").model_dump(mode="json"),
            "validation": corpus.manifest("validation").model_dump(mode="json"),
            "test": corpus.manifest("test").model_dump(mode="json"),
            "model": FRESH,
            "sampling": SAMPLING,
            "batch_size": 16,
            "epochs": 1,
        },
        "rows": [{"name": "coarse only", "set": {**COARSE, **ONLY_VIDEO}}, {"name": "all"}],
        "seeds": [0],
        "parallel": 2,
    }


def run(settings: dict[str, Any], **changes: Any) -> Any:
    return sweep(parse(SweepConfig, {**settings, **changes}, "the test"))


def test_one_table_of_every_row(
    ray_cluster: None,
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = run(settings, seeds=[3])
    assert [(line.name, line.seeds, line.against) for line in lines] == [
        ("coarse only", 1, ""),
        ("all", 1, "coarse only"),
    ]
    out = Path(settings["out"])
    assert sorted(path.name for path in (out / "cells").iterdir()) == ["all-3", "coarse-only-3"]
    # A rerank by the coarse score alone is stage 1.
    assert lines[0].figures["R@1 fused"] == lines[0].figures["R@1 video"]
    config = json.loads((out / "cells" / "all-3" / "training.json").read_text())["configuration"]
    assert (config["seed"], config["model"]["seed"]) == (3, 3)
    assert len(list((out / "clips").iterdir())) == 3  # of each split, decoded once for all
    printed = capsys.readouterr().out
    assert (out / "sweep.md").read_text() in printed

    monkeypatch.setattr(job, "cluster", lambda *_: pytest.fail("what was done was done again"))
    assert run(settings, seeds=[3]) == lines
    assert "2, of which 2 were there already" in capsys.readouterr().out
    document = json.loads((out / "sweep.json").read_text())
    assert [row["name"] for row in document["rows"]] == ["coarse only", "all"]


@pytest.mark.slow
def test_a_training_that_fails_leaves_the_others(ray_cluster: None, settings: dict[str, Any]) -> None:
    rows = [{"name": "fails", "set": {"optimiser.lr": 1e30}}, {"name": "works"}]
    with pytest.raises(JobError, match=r"1 of 2 trainings failed:\n.*fails-0"):
        run(settings, rows=rows, seeds=[0], parallel=1, base={**settings["base"], "checkpoints": {"max_restarts": 0}})
    assert (Path(settings["out"]) / "cells" / "works-0" / "cell.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rows": [{"name": "a", "set": {"loss.vidio": 1}}]},
            r"row 'a' of the sweep.*\n.*vidio.*did you mean loss.video",
        ),
        ({"rows": [{"name": "a b"}, {"name": "A-b"}]}, "names that differ in letters or digits"),
        ({"rows": [{"name": "a", "against": "b"}]}, "row a: there is no row b to compare it with"),
        ({"rows": []}, "rows"),
        ({"seeds": []}, "seeds"),
    ],
)
def test_rows_are_checked_before_ray_starts(
    no_ray: None, settings: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MgvrError, match=message):
        run(settings, **changes)


def test_a_sweep_without_a_test_split_is_refused(no_ray: None, settings: dict[str, Any]) -> None:
    del settings["base"]["test"]
    with pytest.raises(MgvrError, match=r"give base\.test\.uri"):
        run(settings)


OURS = [file for file in sorted((ROOT / "jobs" / "sweeps").glob("*.yaml")) if "rows" in given_keys([str(file)])]


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.stem)
def test_the_sweeps_that_come_with_it_are_valid(file: Path) -> None:
    config = load(SweepConfig, file, {"out": "runs/nowhere"})
    cells = cells_of(config)
    assert len(cells) == len(config.rows) * len(config.seeds)
    assert len({cell.digest for cell in cells}) == len(cells)
    # What makes two rows differ must reach the training, not only the name of its folder.
    losses = {(cell.row, cell.config.loss, cell.config.rerank) for cell in cells}
    assert len({(loss.model_dump_json(), rerank.model_dump_json()) for _, loss, rerank in losses}) == len(config.rows)
