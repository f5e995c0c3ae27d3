"""What mgvr retrieve refuses of a feature set before anything is searched."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgvr_core.config import parse
from mgvr_core.errors import MgvrError
from mgvr_core.features.contents import Change
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.model.load import ModelConfig
from pipelines.retrieve import RetrieveConfig, retrieve


def test_features_of_another_model_are_refused_by_the_name_of_the_part(
    no_ray: None, features: Snapshot, make_checkpoint, tmp_path: Path
) -> None:
    file = tmp_path / "queries.csv"
    file.write_text("text\na red circle\n")
    values = {"features": features.url, "queries": {"uri": str(file)}, "model": make_checkpoint(seed=1)}
    with pytest.raises(MgvrError, match=r"were not made by .*\n  weights: ") as refused:
        retrieve(parse(RetrieveConfig, {"out": str(tmp_path / "out"), **values}, source="the test"))
    assert "activation" not in str(refused.value)


def test_an_empty_feature_set_is_refused(no_ray: None, features: Snapshot, model: ModelConfig, tmp_path: Path) -> None:
    FeatureStore(tmp_path).commit(features.fingerprint, Change(), {})
    file = tmp_path / "queries.csv"
    file.write_text("text\na red circle\n")
    values = {"features": str(tmp_path), "queries": {"uri": str(file)}, "model": model}
    with pytest.raises(MgvrError, match="holds no video"):
        retrieve(parse(RetrieveConfig, {"out": str(tmp_path / "out"), **values}, source="the test"))
