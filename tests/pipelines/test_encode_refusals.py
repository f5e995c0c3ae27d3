"""mgvr encode refuses what does not fit before Ray starts, and leaves the set as it was."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from encode_job import config, root

from mgvr_core.errors import MgvrError
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.model.load import ModelConfig
from pipelines.encode import encode


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"sampling": {"fps": 1}}, "sampling"),
        ({"sampling": {"frames": 3}}, "sampling"),
        ({"features": {"patches": False}}, "patches"),
    ],
)
def test_features_made_otherwise_are_refused_by_the_name_of_the_part(
    no_ray: None, features: Snapshot, corpus, model: ModelConfig, settings: dict[str, Any], part: str
) -> None:
    before = sorted(root(features).rglob("*"))
    with pytest.raises(MgvrError, match=rf"\n  {part}: .* against ") as refused:
        encode(config(root(features), model, corpus=corpus.manifest("test"), **settings))
    assert "--out" in str(refused.value)
    assert sorted(root(features).rglob("*")) == before


def test_another_model_is_refused_by_its_weights(no_ray: None, features: Snapshot, corpus, make_checkpoint) -> None:
    with pytest.raises(MgvrError, match=r"\n  weights: ") as refused:
        encode(config(root(features), make_checkpoint(seed=1), corpus=corpus.manifest("test")))
    assert "sampling" not in str(refused.value)  # what is the same is not named


def test_a_checkpoint_that_was_trained_again_is_another_model(
    no_ray: None, features: Snapshot, corpus, make_checkpoint, tmp_path: Path
) -> None:
    """In the same folder, and asked for by the same process."""
    place = tmp_path / "model"
    for seed, parts in ((0, {"sampling"}), (1, {"sampling", "weights"})):
        shutil.copytree(str(make_checkpoint(seed=seed).checkpoint), place, dirs_exist_ok=True)
        again = ModelConfig(checkpoint=str(place))
        with pytest.raises(MgvrError) as refused:
            encode(config(root(features), again, corpus=corpus.manifest("test"), sampling={"fps": 1}))
        assert set(re.findall(r"^  (\w+): ", str(refused.value), re.MULTILINE)) == parts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoding": {"decoder": "ffmpeg"}}, "no video decoder is called 'ffmpeg'"),
        ({"corpus": {"uri": "nowhere"}}, "does not exist"),
        ({"model": {"checkpoint": "nowhere"}}, "nowhere"),
        ({"compute": {"device": "gpu"}}, "compute.device"),
    ],
)
def test_what_can_be_checked_is_checked_before_ray_starts(
    no_ray: None, corpus, model: ModelConfig, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(MgvrError, match=message):
        encode(config(tmp_path / "out", **{"model": model, "corpus": corpus.manifest("test"), **settings}))
    assert not (tmp_path / "out").exists()


def test_addresses_that_nobody_here_reaches_are_refused_before_ray_starts(
    no_ray: None, corpus, model: ModelConfig, tmp_path: Path
) -> None:
    """A URL taken for a relative path would be another folder on every machine."""
    manifest = tmp_path / "remote.csv"
    manifest.write_text("uri\nftp://example.org/a.mp4\n")
    with pytest.raises(MgvrError, match=r"ftp://example\.org/a\.mp4 can't be read: a video is a file, or lies at"):
        encode(config(tmp_path / "out", model, corpus={"uri": str(manifest)}))
    with pytest.raises(MgvrError, match=r"out: must be a folder, or begin with one of s3://, gs://"):
        config("ftp://example.org/features", model, corpus=corpus.manifest("test"))
