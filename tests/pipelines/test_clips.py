"""Real footage, from the folder beside the checkout: every file is answered for, and nothing hangs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.model.load import ModelConfig
from pipelines import encode, retrieve


@pytest.fixture(scope="module")
def clips(shared: Path) -> Path:
    return shared / "clips"


@pytest.fixture(scope="module")
def real(ray_cluster: None, clips: Path, model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The good clips by their file of captions, which names its columns in its own way."""
    out = tmp_path_factory.mktemp("real")
    argv = ["--corpus.uri", str(clips / "captions.csv"), "--corpus.root", str(clips / "good"), "--corpus.ids", "path"]
    argv += ["--corpus.columns.uri", "video", "--model.checkpoint", str(model.checkpoint), "--out", str(out)]
    assert encode.run(argv) == 0
    return FeatureStore(out).snapshot()


def answered(snapshot: Snapshot) -> dict[str, str]:
    """Each file's name and what became of it."""
    encoded = [uri for table in snapshot.tables(["uri"]) for uri in table["uri"].to_pylist()]
    failed = {Path(row["uri"]).name: row["kind"] for row in snapshot.failed().to_pylist()}
    return {**{Path(uri).name: "encoded" for uri in encoded}, **failed}


def test_every_good_clip_is_encoded(real: Snapshot, clips: Path) -> None:
    assert answered(real) == {path.name: "encoded" for path in (clips / "good").iterdir()}


def test_every_broken_clip_is_listed_with_a_reason(
    ray_cluster: None, clips: Path, model: ModelConfig, tmp_path: Path
) -> None:
    argv = ["--corpus.uri", str(clips / "broken"), "--model.checkpoint", str(model.checkpoint), "--out", str(tmp_path)]
    assert encode.run(argv) == 1  # so many failures are no success, and what is good is committed all the same
    snapshot = FeatureStore(tmp_path).snapshot()
    found = answered(snapshot)
    assert found.keys() == {path.name for path in (clips / "broken").iterdir()}
    assert not {"timeout", "crash", "decoder_error"} & set(found.values())
    assert all(row["message"] for row in snapshot.failed().to_pylist())
    assert snapshot.failed().num_rows >= 20  # newer decoders may come to read one or the other


def test_the_captions_are_queries(real: Snapshot, clips: Path, model: ModelConfig, tmp_path: Path) -> None:
    argv = ["--features", real.url, "--queries.uri", str(clips / "captions.csv"), "--out", str(tmp_path)]
    argv += ["--queries.columns.id", "null", "--queries.columns.text", "caption"]
    argv += ["--queries.columns.relevant", "video", "--model.checkpoint", str(model.checkpoint)]
    assert retrieve.run(argv) == 0
    with (clips / "captions.csv").open(encoding="utf-8", newline="") as file:
        asked = {(row["caption"], row["video"]) for row in csv.DictReader(file)}
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    direction = report["metrics"]["text_to_video"]
    assert (report["pool"], report["queries"]) == (real.rows, len(asked))
    assert (direction["unanswerable"], report["unlabelled_queries"]) == (0, 0)
    assert report["captions"]["unknown_words"] > 0  # the model's words are those of coloured shapes
    assert "<svg" in (tmp_path / "report.html").read_text(encoding="utf-8")
