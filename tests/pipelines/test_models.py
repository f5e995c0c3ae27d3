"""What a model runs on, in which precision, and under which fingerprint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mgvr_core.config import Section, parse
from mgvr_core.errors import MgvrError
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.model.load import ModelConfig, load_model
from pipelines.decoding import Batch
from pipelines.encode import EncodeConfig, encode
from pipelines.encoding import Encode
from pipelines.models import DeviceConfig, EncoderConfig, feature_maker, model_fingerprint
from pipelines.progress import Silent
from pipelines.retrieve import RetrieveConfig, retrieve
from pipelines.train import TrainConfig

COSINE = 0.999
"""What --help promises of int8."""
VECTORS = ("video", "frames", "temporal", "patches")


def config(out: Path, model: ModelConfig, **settings: Any) -> EncodeConfig:
    return parse(EncodeConfig, {"out": str(out), "model": model, **settings}, source="the test")


def vectors(snapshot: Snapshot) -> dict[str, dict[str, np.ndarray]]:
    """Per video its vectors (n, D) by kind, of the frames that it has."""
    found = {}
    for table in snapshot.tables():
        columns = {name: tensor_column(table, name) for name in (*VECTORS, "mask")}
        for row, name in enumerate(table["id"].to_pylist()):
            shown = columns["mask"][row] > 0
            parts = {kind: columns[kind][row] if kind == "video" else columns[kind][row][shown] for kind in VECTORS}
            found[name] = {kind: part.reshape(-1, part.shape[-1]).astype(float) for kind, part in parts.items()}
    return found


def least_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(axis=1) / lengths).min())


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that seems to have one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def own_threads() -> Iterator[None]:
    """A stage sets the threads of its process, which here is the tests' own."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_an_int8_set_is_near_the_float32_set_and_the_same_model_searches_it(
    ray_cluster: None, features: Snapshot, corpus, model: ModelConfig, tmp_path: Path
) -> None:
    int8 = encode(config(tmp_path / "int8", model, corpus=corpus.manifest("test"), compute={"precision": "int8"}))
    ours, theirs = vectors(int8), vectors(features)
    assert len(ours) == 12
    assert ours.keys() == theirs.keys()
    assert all(least_cosine(ours[name][kind], theirs[name][kind]) >= COSINE for name in ours for kind in VECTORS)
    assert any((ours[name]["frames"] != theirs[name]["frames"]).any() for name in ours)  # else nothing ran in int8
    assert int8.fingerprint.differences(features.fingerprint) == ['precision: "int8" against "float32"']
    report = retrieve(
        RetrieveConfig(
            out=str(tmp_path / "answers"),
            features=int8.url,
            queries={"uri": str(corpus.folder / "test-queries.jsonl")},
            model=model,
            k=5,
        )
    )
    assert (report.pool, report.queries) == (12, 24)


def test_int8_and_float32_do_not_mix(no_ray: None, features: Snapshot, corpus, model: ModelConfig) -> None:
    with pytest.raises(MgvrError, match=r'\n  precision: "float32" against "int8"'):
        encode(config(Path(features.url), model, corpus=corpus.manifest("test"), compute={"precision": "int8"}))


@pytest.mark.parametrize("settings", [{}, {"device": "cuda"}])
def test_int8_on_a_gpu_is_refused_before_ray_starts(
    no_ray: None, a_gpu: None, corpus, model: ModelConfig, tmp_path: Path, settings: dict[str, str]
) -> None:
    asked = config(tmp_path, model, corpus=corpus.manifest("test"), compute={"precision": "int8", **settings})
    with pytest.raises(MgvrError, match=r"int8 runs on a CPU.* set compute\.device to cpu"):
        encode(asked)


def test_int8_of_another_tower_is_refused_before_ray_starts(no_ray: None, corpus, tmp_path: Path) -> None:
    architecture = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
        "text_cfg": {"context_length": 24, "width": 64, "heads": 2, "layers": 1},
    }
    asked = config(
        tmp_path,
        ModelConfig(architecture=architecture),
        corpus=corpus.manifest("test"),
        features={"patches": False},
        compute={"precision": "int8"},
    )
    with pytest.raises(MgvrError, match="int8 is for plain ViT towers"):
        encode(asked)


def test_int8_by_a_pytorch_without_its_engine_is_refused_before_ray_starts(
    no_ray: None, corpus, model: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(MgvrError, match="no oneDNN here"):
        encode(config(tmp_path, model, corpus=corpus.manifest("test"), compute={"precision": "int8"}))


@pytest.mark.parametrize(
    ("job", "settings"),
    [
        (TrainConfig, {"corpus": {"uri": "train.jsonl"}}),
        (RetrieveConfig, {"features": "set", "queries": {"uri": "queries.jsonl"}}),
    ],
)
def test_training_and_search_know_no_int8(job: type[Section], settings: dict[str, Any]) -> None:
    asked = {"out": "run", "model": {"checkpoint": "model"}, "compute": {"precision": "int8"}, **settings}
    with pytest.raises(MgvrError, match=r"compute\.precision: .*'float32' or 'bfloat16' \(given: 'int8'\)"):
        parse(job, asked, source="the test")


def test_auto_is_float32_on_a_cpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    found = DeviceConfig().resolved()
    assert (found.device, found.precision, found.gpus) == ("cpu", "float32", 0)
    with found.autocast():
        assert not torch.is_autocast_enabled("cpu")


def test_auto_is_bfloat16_on_a_gpu(a_gpu: None) -> None:
    found = EncoderConfig().resolved()
    assert (found.device, found.precision, found.gpus, found.videos_at_once) == ("cuda", "bfloat16", 1, 32)


@pytest.mark.usefixtures("own_threads")
def test_bfloat16_features_are_unit_vectors_near_float32s(model: ModelConfig) -> None:
    maker = feature_maker(model, EncodeConfig.model_fields["sampling"].default, "none", True, EncoderConfig())
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, maker.shape.frames, 32, 32, 3), np.uint8)
    made: dict[str, Batch] = {}
    for precision in ("float32", "bfloat16"):
        stage = Encode(
            model, maker.fingerprint, EncoderConfig(device="cpu", precision=precision), maker.shape, Silent()
        )
        rows = {"fault": np.array([""] * 3), "mask": np.ones(pixels.shape[:2], bool), "pixels": pixels}
        made[precision] = stage(rows)
    for kind in VECTORS:
        ours, theirs = (made[name][kind].reshape(-1, maker.shape.dim).astype(float) for name in ("bfloat16", "float32"))
        assert (ours != theirs).any()
        assert least_cosine(ours, theirs) > 0.999
        # Normalised after the towers, in float32: not as coarse as the numbers that they are made of.
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-3)


def test_one_bit_of_one_weight_makes_another_model(model: ModelConfig) -> None:
    loaded = load_model(model).model
    before = model_fingerprint(loaded)
    with torch.no_grad():
        loaded.video_projection.view(torch.int32)[0, 0] ^= 1
    assert [line.split(":")[0] for line in before.differences(model_fingerprint(loaded))] == ["weights"]
