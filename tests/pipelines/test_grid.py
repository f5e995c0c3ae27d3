"""mgvr sweep over a grid: which rows there are, what they share, that what is done stays done, and the guard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_jobs import SAMPLING

from mgvr_core.config import load, parse
from mgvr_core.errors import JobError, MgvrError
from mgvr_core.evaluation.systems import System, SystemsReport
from mgvr_core.model.load import ModelConfig
from mgvr_core.scorers.catalogue import catalogue
from pipelines import sweep_grid
from pipelines.grid import GridConfig, cell_folder, cells_of
from pipelines.options import given_keys
from pipelines.retrieve import RetrieveConfig, retrieve

ROOT = Path(__file__).resolve().parents[2]
K = 5

Settings = dict[str, Any]


@pytest.fixture(scope="module")
def settings(corpus, model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return {
        "out": str(tmp_path_factory.mktemp("sweep") / "out"),
        "corpus": corpus.manifest("test").model_dump(),
        "queries": {"uri": str(corpus.folder / "test-queries.jsonl")},
        "training": corpus.manifest("train").model_dump(),
        "models": {"small": {"model": model.model_dump(), "encode": {"sampling": SAMPLING}}},
        "codecs": {"short": {"values": "int8"}},
        "indexes": {"rough": {"factory": "HNSW4"}},
        "corrections": {"dual": {"kind": "dual_softmax"}, "bank": {"kind": "qb_norm"}},
        "heads": {"batch_size": 16, "epochs": 1},
        "grid": [
            {"scorer": ["coarse", "query_scoring"], "k": None},
            {"scorer": "max_sim", "k": [K, 100]},
            {"scorer": "eercf", "k": K, "codec": ["none", "short"], "index": ["none", "rough"]},
            {"scorer": "eercf", "k": [K, None], "correction": ["dual", "bank"]},
        ],
        "bank": 20,
        "report": {"bootstrap": 20},
        "ray": {"stall_s": 120},
    }


def config_of(settings: Settings, **changes: Any) -> GridConfig:
    return parse(GridConfig, {**settings, **changes}, "the test")


@pytest.fixture(scope="module")
def done(ray_cluster: None, settings: Settings) -> SystemsReport:
    return sweep_grid.sweep_grid(config_of(settings))


def rows(report: SystemsReport) -> dict[str, System]:
    return {system.name: system for system in report.systems}


def test_rows_are_named_by_what_tells_them_apart(settings: Settings) -> None:
    names = [cell.name for cell in cells_of(config_of(settings))]
    assert names == [
        *("coarse", "query_scoring", "max_sim on 5", "max_sim on 100"),
        *("eercf on 5", "eercf on 5, rough", "eercf on 5, short", "eercf on 5, short, rough"),
        *("eercf on 5, dual", "eercf on 5, bank", "eercf, dual", "eercf, bank"),
    ]
    twice = {**settings["models"], "other": settings["models"]["small"]}
    seeds = cells_of(config_of(settings, models=twice, grid=[{"scorer": ["coarse", "x_pool"], "seed": [0, 1]}]))
    assert [cell.name for cell in seeds] == [
        *("coarse on 50, small", "x_pool on 50, small, seed 0", "x_pool on 50, small, seed 1"),
        *("coarse on 50, other", "x_pool on 50, other, seed 0", "x_pool on 50, other, seed 1"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": [{"scorer": "x_pol"}]}, "there is no scorer 'x_pol'; did you mean x_pool"),
        ({"grid": [{"scorer": "eercf", "codec": "long"}]}, "there is no codec 'long'; there are: none, short"),
        ({"grid": [{"scorer": "eercf", "k": None, "index": "rough"}]}, "every video is scored: give a k"),
        ({"grid": [{"scorer": "token_binder", "k": None}]}, "token_binder ranks a list of candidates: give a k"),
        ({"grid": [{"scorer": "x_pool"}], "training": None}, "give training.uri"),
        ({"baseline": "coarse on 7"}, "there is no row 'coarse on 7'; the rows are: coarse"),
        ({"expected": {"nothing": {"R@1": [1, 1]}}}, "there is no row 'nothing'"),
        ({"expected": {"coarse": {"R@2": [1, 1]}}}, "there is no metric 'R@2'"),
        ({"grid": [{"scorer": "coarse", "weights": "mine"}], "weights": {"mine": {}}}, "weights are those of eercf"),
        ({"grid": [{"scorer": "coarse", "kk": 5}]}, "unknown key"),
        ({"heads": {"epoch": 2}, "grid": [{"scorer": "x_pool"}]}, "epoch: unknown key; did you mean epochs"),
        ({"heads": {"seed": 2}}, "seed is set by the sweep itself"),
        ({"grid": [{"scorer": "coarse", "k": 0}]}, "greater than 0"),
        ({"expected": {"coarse": {"R@1": [1, 0]}}}, "greater than 0"),
        ({"models": {"small": {"model": {"checkpoint": "nowhere"}}}}, "there is no file or folder nowhere"),
        ({"corpus": None}, "nothing says which videos small is to encode"),
        ({"head": {"xpool": {}}}, "head: there is no scorer 'xpool'"),
        ({"queries": {"uri": "nowhere.jsonl"}}, "nowhere.jsonl"),
        (
            {
                "weights": {"short": {}},
                "grid": [{"scorer": "eercf", "weights": "short"}, {"scorer": "eercf", "codec": "short"}],
            },
            "two systems are called 'eercf on 50, short'",
        ),
        ({"procedural": {}}, "procedural makes all splits itself"),
    ],
)
def test_a_grid_that_can_not_be_is_refused_before_ray_starts(
    settings: Settings, changes: Settings, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_grid, "cluster", lambda config: pytest.fail("Ray was started"))
    with pytest.raises(MgvrError, match=message):
        sweep_grid.sweep_grid(config_of(settings, **changes))


def test_every_system_is_a_row_with_its_price(done: SystemsReport, settings: Settings) -> None:
    found, small = rows(done), {"F": 4, "D": 64, "N": 12}
    assert len(found) == 12
    assert found["coarse"].macs == small["N"] * small["D"]
    assert found["max_sim on 5"].macs == small["N"] * small["D"] + K * (found["max_sim on 100"].macs // small["N"] - 64)
    assert found["coarse"].bytes == 2 * small["D"]
    assert found["query_scoring"].bytes == 2 * small["F"] * small["D"]
    assert found["eercf on 5, short"].bytes < found["eercf on 5"].bytes
    assert found["max_sim on 5"].parameters == 0
    assert all(system.seconds and system.seconds > 0 for system in done.systems)
    assert [name for name, system in found.items() if system.transductive] == ["eercf on 5, dual", "eercf, dual"]
    assert found["eercf on 5, rough"].macs is None  # nobody counts what an index multiplies
    assert not found["coarse"].gain
    assert found["eercf on 5"].recall_at_k is not None
    assert found["query_scoring"].recall_at_k is None


def test_the_fused_score_is_that_of_mgvr_retrieve(
    done: SystemsReport, settings: Settings, ray_cluster: None, tmp_path: Path
) -> None:
    """To the figure, from the same features; and a scorer as a rerank of all videos is its single stage."""
    (features,) = Path(settings["out"]).glob("features/small-test-*")
    values = {
        "out": str(tmp_path / "answers"),
        "features": str(features),
        "queries": settings["queries"],
        "model": settings["models"]["small"]["model"],
        "k": K,
        "search": {"workers": 1},
        "report": {"bootstrap": 20},
    }
    report = retrieve(parse(RetrieveConfig, values, source="the test"))
    assert report.metrics is not None
    direction, mine = report.metrics.text_to_video, rows(done)
    assert mine["eercf on 5"].figures == direction.two_stage
    assert mine["eercf on 5"].recall_at_k == direction.recall_at_k
    assert mine["coarse"].figures["R@5"].value == direction.coarse["R@5"].value


def test_a_sweep_that_is_done_does_nothing(
    done: SystemsReport, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sweep_grid, "cluster", lambda config: pytest.fail("Ray was started"))
    again = sweep_grid.sweep_grid(config_of(settings))
    assert again.systems == done.systems
    assert "nothing was left to do" in capsys.readouterr().out


def test_what_changes_is_done_again_and_nothing_else(done: SystemsReport, settings: Settings) -> None:
    config = config_of(settings, corrections={**settings["corrections"], "dual": {"kind": "dual_softmax", "beta": 7}})
    cells = cells_of(config)
    digests = sweep_grid.digests_of(config, cells)
    out = Path(settings["out"])
    left = [cell.name for cell in cells if not sweep_grid.is_done(out, cell, digests[cell])]
    assert left == ["eercf on 5, dual", "eercf, dual"]


def test_a_file_that_a_setting_names_is_known_by_what_it_holds(settings: Settings, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_bytes(Path(settings["queries"]["uri"]).read_bytes())
    config = config_of(settings, queries={"uri": f"file://{queries}"}, grid=[{"scorer": ["coarse", "x_pool"]}])
    cells = cells_of(config)
    before = sweep_grid.digests_of(config, cells)
    assert sweep_grid.digests_of(config, cells) == before
    queries.write_bytes(queries.read_bytes() + b"\n")
    assert not set(sweep_grid.digests_of(config, cells).values()) & set(before.values())
    more = config.model_copy(update={"heads": {"batch_size": 8, "epochs": 1}})
    after = sweep_grid.digests_of(more, cells)
    assert [after[cell] == sweep_grid.digests_of(config, cells)[cell] for cell in cells] == [True, False]


def test_systems_of_different_features_are_not_put_into_one_table(done: SystemsReport, settings: Settings) -> None:
    config = config_of(settings)
    cells, out = cells_of(config), Path(settings["out"])
    mark = cell_folder(out, cells[1]) / "cell.json"
    kept = mark.read_text()
    about = json.loads(kept)
    mark.write_text(json.dumps({**about, "fingerprints": {**about["fingerprints"], "model": "another"}}))
    with pytest.raises(MgvrError, match="query_scoring and coarse were measured on different features"):
        sweep_grid.sweep_grid(config)
    mark.write_text(kept)


def test_a_figure_that_has_drifted_ends_the_sweep_with_its_name(
    done: SystemsReport, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    value = 100 * rows(done)["coarse"].figures["R@5"].value
    right = config_of(settings, expected={"coarse": {"R@5": [value + 0.4, 0.5]}})
    assert not sweep_grid.sweep_grid(right).drifted
    assert "1 of 1 figures OK" in capsys.readouterr().out
    wrong = config_of(settings, expected={"coarse": {"R@5": [value + 0.6, 0.5], "R@1": [0, 100]}})
    with pytest.raises(JobError, match=rf"FAIL  coarse: R@5 is {value:.4g}, expected"):
        sweep_grid.sweep_grid(wrong)
    assert "1 of 2 figures OK, 1 FAIL" in capsys.readouterr().out
    page = json.loads((Path(settings["out"]) / "systems.json").read_text())
    assert len(page["systems"]) == 12


def test_ranks_are_kept_for_comparisons(done: SystemsReport, settings: Settings) -> None:
    table = pq.read_table(Path(settings["out"]) / "ranks.parquet").to_pylist()
    ranks = [row["rank"] for row in table if row["system"] == "coarse"]
    assert np.mean(np.array(ranks) <= 5) == rows(done)["coarse"].figures["R@5"].value


@pytest.mark.slow
def test_learned_scorers_of_every_kind_and_several_seeds(ray_cluster: None, settings: Settings, tmp_path: Path) -> None:
    grid = [{"scorer": ["x_pool", "token_binder", "ucofia"], "k": K, "seed": [0, 1]}]
    found = rows(sweep_grid.sweep_grid(config_of(settings, out=str(tmp_path / "out"), grid=grid)))
    names = ("x_pool", "token_binder", "ucofia")
    assert list(found) == [f"{name} on 5, seed {seed}" for name in names for seed in (0, 1)]
    assert all(system.parameters > 0 for system in found.values())
    assert len({system.recall_at_k for system in found.values()}) == 1
    assert len(list((tmp_path / "out/heads").iterdir())) == 6


FILES = [file for file in sorted((ROOT / "jobs/sweeps").glob("*.yaml")) if "grid" in given_keys([str(file)])]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_sweeps_that_come_with_it_are_valid(file: Path) -> None:
    cells = cells_of(load(GridConfig, file, {}))
    assert len({cell.name for cell in cells}) == len(cells)


def test_the_demos_sweep_measures_every_scorer_that_there_is() -> None:
    config = load(GridConfig, ROOT / "jobs/sweeps/demo.yaml", {})
    assert {cell.scorer for cell in cells_of(config)} == {*catalogue(), "eercf"}
