"""Models by an open_clip name: the activation is part of the name, and nothing is fetched behind the user's back."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from pydantic import ValidationError
from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.model.checkpoint import weights_hash
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.model.spec import named_architecture

pytestmark = [
    pytest.mark.usefixtures("small_open_clip"),
    pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)


def named(name: str, weights: object = "random", **settings: object) -> ModelConfig:
    return ModelConfig(name=name, weights=str(weights), **{"frames": 3, **settings})


class Node(torch.nn.Module):
    """One module of a tree that holds weights by their dotted names."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def save_archive(weights: dict[str, Tensor], sizes: dict[str, int], file: Path) -> None:
    """A TorchScript archive as OpenAI publishes CLIP: fp16 weights, and three sizes kept among them as buffers."""
    root = Node()
    for name, tensor in weights.items():
        *parents, leaf = name.split(".")
        node = root
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, Node())
            node = getattr(node, parent)
        node.register_parameter(leaf, torch.nn.Parameter(tensor.half()))
    for name, size in sizes.items():
        root.register_buffer(name, torch.tensor(size))
    torch.jit.script(root).save(str(file))


@pytest.fixture
def openai_archive(tmp_path: Path) -> Path:
    weights = CLIP(**named_architecture("ViT-B-32-quickgelu")).state_dict()
    file = tmp_path / "ViT-B-32.pt"
    save_archive(weights, {"input_resolution": 16, "context_length": 8, "vocab_size": 20}, file)
    return file


def test_an_openai_archive_loads_into_the_quickgelu_model(openai_archive: Path) -> None:
    clip = load_model(named("ViT-B-32-quickgelu", openai_archive)).model.clip
    archive = torch.jit.load(openai_archive).state_dict()
    mine = clip.state_dict()
    assert archive.keys() - mine.keys() == {"input_resolution", "context_length", "vocab_size"}
    assert all(torch.equal(mine[name], archive[name].float()) for name in mine)


def test_an_openai_archive_is_refused_by_the_gelu_model(openai_archive: Path) -> None:
    with pytest.raises(MgvrError, match=r"--model\.name ViT-B-32-quickgelu$"):
        load_model(named("ViT-B-32", openai_archive))


def test_the_openai_tag_is_refused_by_the_gelu_model_before_anything_is_fetched() -> None:
    with pytest.raises(MgvrError, match=r"QuickGELU.*--model\.name ViT-B-32-quickgelu$"):
        load_model(named("ViT-B-32", "openai"))


def test_gelu_weights_are_refused_by_the_quickgelu_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"quick_gelu": False})
    with pytest.raises(MgvrError, match=r"with GELU.*--model\.name ViT-B-32$"):
        load_model(named("ViT-B-32-quickgelu", "laion2b_s34b_b79k"))


def test_eercf_weights_are_refused_by_the_gelu_model(released_weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(released_weights, tmp_path / "eercf.bin")
    with pytest.raises(MgvrError, match=r"eercf\.bin .*--model\.name ViT-B-32-quickgelu$"):
        load_model(named("ViT-B-32", tmp_path / "eercf.bin"))


def test_eercf_weights_are_a_whole_model_not_the_towers_of_one(
    released_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(released_weights, tmp_path / "eercf.bin")
    with pytest.raises(MgvrError, match=r"give it as model\.checkpoint"):
        load_model(named("ViT-B-32-quickgelu", tmp_path / "eercf.bin"))


def test_weights_that_cannot_be_fetched_say_what_to_do() -> None:
    with pytest.raises(MgvrError, match=r"openai of ViT-B-32-quickgelu.*no route to host.*model\.weights"):
        load_model(named("ViT-B-32-quickgelu", "openai"))


def test_weights_that_are_neither_file_nor_tag_are_told_with_the_tags_there_are() -> None:
    with pytest.raises(MgvrError, match=r"no file opneai.*it has: openai"):
        load_model(named("ViT-B-32-quickgelu", "opneai"))


def test_incomplete_weights_are_refused_by_name(tmp_path: Path) -> None:
    weights = CLIP(**named_architecture("ViT-B-32")).state_dict()
    del weights["visual.proj"]
    torch.save(weights, tmp_path / "clip.pt")
    with pytest.raises(MgvrError, match=r"(?s)clip\.pt do not fit ViT-B-32.*visual\.proj"):
        load_model(named("ViT-B-32", tmp_path / "clip.pt"))


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(MgvrError, match=r"'ViT-B-32-quikgelu'; did you mean ViT-B-32-quickgelu\?"):
        load_model(named("ViT-B-32-quikgelu"))


def test_random_weights_follow_from_the_seed_and_say_that_they_mean_nothing() -> None:
    torch.manual_seed(5)
    first = load_model(named("ViT-B-32-quickgelu", seed=3))
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1)), "the caller's random numbers must not depend on a model having been built"
    assert weights_hash(first.model) == weights_hash(load_model(named("ViT-B-32-quickgelu", seed=3)).model)
    assert weights_hash(first.model) != weights_hash(load_model(named("ViT-B-32-quickgelu", seed=4)).model)
    assert any("results mean nothing" in note for note in first.notes)


def test_what_eercf_adds_starts_from_the_text_tower_and_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    four_blocks = named_architecture("ViT-B-32-quickgelu")
    four_blocks["text_cfg"]["layers"] = 5
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", four_blocks)
    loaded = load_model(named("ViT-B-32-quickgelu"))
    model = loaded.model
    assert len(model.temporal.blocks) == 4
    for mine, theirs in zip(model.temporal.blocks, model.clip.transformer.resblocks, strict=False):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in mine.state_dict().items())
        assert {norm.eps for norm in (mine.ln_1, mine.ln_2)} == {1e-12}
    assert torch.equal(model.temporal.positions[:8], model.clip.positional_embedding)
    assert torch.equal(model.video_projection, torch.eye(64))
    assert torch.equal(model.frame_mixing, torch.eye(3))
    assert not any("temporal encoder" in note for note in loaded.notes)


def test_a_text_tower_that_cannot_start_the_temporal_encoder_is_noted() -> None:
    assert any("starts from random weights" in note for note in load_model(named("ViT-B-32-quickgelu")).notes)


def test_a_hub_tokenizer_fills_the_whole_length_with_its_own_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    small = named_architecture("ViT-B-32-quickgelu")
    small["text_cfg"] |= {"hf_tokenizer_name": "someone/tokenizer", "no_causal_mask": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32-hub", small)
    assert load_model(named("ViT-B-32-hub", text_length=5)).model.spec.text_length == 8
    assert load_model(named("ViT-B-32", text_length=5)).model.spec.text_length == 5
    assert load_model(named("ViT-B-32", text_length=32)).model.spec.text_length == 8


@pytest.mark.parametrize(
    "settings", [{}, {"name": "ViT-B-32"}, {"name": "ViT-B-32", "weights": "random", "checkpoint": "folder"}]
)
def test_a_model_is_given_in_one_way(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"give one of|which weights"):
        ModelConfig(**settings)
