"""mgvr demo, small: from nothing to a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mgvr_core.datasets.procedural import write_videos
from mgvr_core.datasets.scenes import ProceduralConfig
from mgvr_core.features.store import FeatureStore
from pipelines import demo

SMALL = ["--corpus.train", "60", "--corpus.validation", "20", "--corpus.test", "30", "--epochs", "1"]


def test_it_leaves_a_report_of_coarse_and_two_stage_side_by_side(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert demo.run(["--out", str(out), *SMALL]) == 0
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (report["pool"], report["queries"]) == (30, 90)
    for direction in report["metrics"].values():
        assert direction["coarse"].keys() == direction["two_stage"].keys() >= {"R@1", "R@5", "R@10", "MdR", "MRR"}
        assert direction["gain"]["R@1"].keys() >= {"value", "low", "high"}
    page = out / "report.html"
    assert page.stat().st_size > 10_000
    printed = capsys.readouterr().out.rstrip().splitlines()
    assert printed[-1].endswith(str(page))
    closing = "\n".join(printed[printed.index("mgvr demo: done") :])
    coarse, two_stage = (
        100 * report["metrics"]["text_to_video"][name]["R@1"]["value"] for name in ("coarse", "two_stage")
    )
    assert f"coarse       R@1 {coarse:5.1f}" in closing
    assert f"two-stage    R@1 {two_stage:5.1f}" in closing
    assert {path.name for path in out.iterdir()} >= {"corpus", "train", "features", "results.parquet", "run.trec"}


def test_a_folder_with_other_things_in_it_is_refused_and_kept(
    no_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run replaces what the first left: it must not be somebody's features."""
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "mine.parquet").write_bytes(b"mine")
    assert demo.run(["--out", str(tmp_path), *SMALL]) == 2
    assert "--out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["mine.parquet"]


@pytest.mark.slow
def test_it_can_be_run_again_and_with_other_videos(ray_cluster: None, tmp_path: Path) -> None:
    """What is there is used; what was made otherwise is made again, and never mixed."""
    out = tmp_path / "demo"
    assert demo.run(["--out", str(out), *SMALL]) == 0
    videos = {path: path.stat().st_mtime_ns for path in out.glob("corpus/*/*.mp4")}
    assert len(videos) == 110
    assert demo.run(["--out", str(out), *SMALL]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("corpus/*/*.mp4")} == videos

    assert demo.run(["--out", str(out), *SMALL, "--corpus.seed", "1", "--seed", "1"]) == 0
    write_videos(tmp_path, ProceduralConfig(train=60, validation=20, test=30, seed=1), "test", [7])
    name = Path("test") / "test-00007.mp4"
    assert (out / "corpus" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert FeatureStore(out / "features").snapshot().rows == 30
