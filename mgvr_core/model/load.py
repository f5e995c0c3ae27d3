"""From what the user names to a model: a trained checkpoint, a released one, or an open_clip model with weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from pydantic import Field, field_validator, model_validator

from mgvr_core.config import LocalPath, Section
from mgvr_core.errors import MgvrError
from mgvr_core.model import checkpoint, released
from mgvr_core.model.checkpoint import Checkpoint
from mgvr_core.model.eercf import EERCF
from mgvr_core.model.spec import ModelSpec, TokenizerSpec, named_architecture
from mgvr_core.model.tokenizer import WordTokenizer, learn_vocabulary
from mgvr_core.model.weights import is_openai_archive, read_weights, without_bookkeeping


class ModelConfig(Section):
    """Which model: `checkpoint`, or an open_clip `name` with `weights`, or an `architecture` with fresh weights."""

    checkpoint: LocalPath | None = Field(
        None, description="a folder that mgvr train wrote, or a released EERCF/CLIP4Clip file (.bin, .pt, .safetensors)"
    )
    name: str | None = Field(None, description="an open_clip model, e.g. ViT-B-32-quickgelu")
    weights: str | None = Field(
        None, description="for name: a local weights file, an open_clip tag (openai, laion2b_s34b_b79k …) or `random`"
    )
    architecture: dict[str, Any] | None = Field(
        None, description="an open_clip model configuration written out (embed_dim, vision_cfg …), with fresh weights"
    )
    vocabulary: Literal["clip", "captions"] = Field(
        "clip", description="for architecture: CLIP's byte pairs, or the words of the training captions"
    )
    temporal_layers: int = Field(4, ge=0, description="for name and architecture: blocks of the temporal encoder")
    seed: int = Field(0, description="seed of random weights")
    frames: int = Field(12, gt=0, le=77, description="for name and architecture: frames a video, the size of U")
    text_length: int = Field(32, gt=2, description="for name and architecture: the most text tokens of a caption")

    @field_validator("checkpoint", "weights")
    @classmethod
    def _absolute(cls, name: str | None) -> str | None:
        # Workers load the model too, and not from the driver's working folder. A tag or `random` is no file.
        return str(Path(name).absolute()) if name is not None and Path(name).exists() else name

    @model_validator(mode="after")
    def _one_way(self) -> ModelConfig:
        if sum(way is not None for way in (self.checkpoint, self.name, self.architecture)) != 1:
            raise ValueError("give one of checkpoint, name (with weights), architecture")
        if self.name is not None and self.weights is None:
            raise ValueError(f"say which weights {self.name} gets: a local file, an open_clip tag, or random")
        return self


def load_model(config: ModelConfig, captions: Iterable[str] = ()) -> Checkpoint:
    """The model in evaluation mode on the CPU; raises MgvrError that says what is missing or does not fit.

    `captions` are those that a vocabulary is learned from, where the configuration asks for one.
    """
    if config.checkpoint is not None:
        path = Path(config.checkpoint)
        if not path.exists():
            raise MgvrError(f"model.checkpoint: there is no file or folder {path}")
        return checkpoint.load(path) if path.is_dir() else _load_released(path)
    if config.name is not None:
        return _load_named(config, config.name)
    return _build_fresh(config, captions)


def _build_fresh(config: ModelConfig, captions: Iterable[str]) -> Checkpoint:
    assert config.architecture is not None
    architecture = copy.deepcopy(config.architecture)
    tokenizer = TokenizerSpec()
    if config.vocabulary == "captions":
        words = learn_vocabulary(captions)
        if not words:
            raise MgvrError("model.vocabulary is `captions`, but there are no captions to learn one from")
        tokenizer = TokenizerSpec(kind="words", vocabulary=words)
        architecture["text_cfg"]["vocab_size"] = WordTokenizer.size(words)
    spec = ModelSpec(
        architecture=architecture,
        frames=config.frames,
        temporal_layers=config.temporal_layers,
        text_length=min(config.text_length, architecture["text_cfg"].get("context_length", config.text_length)),
        tokenizer=tokenizer,
    )
    model = _seeded(spec, config.seed)
    model.start_temporal_from_text()
    return Checkpoint(model.eval(), source=f"fresh weights (seed {config.seed})", notes=("the weights are random",))


def _seeded(spec: ModelSpec, seed: int) -> EERCF:
    """A model whose random weights are a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EERCF(spec)


def _load_released(path: Path) -> Checkpoint:
    weights = read_weights(path)
    if not released.is_released(weights):
        raise MgvrError(
            f"{path} is not an EERCF or CLIP4Clip checkpoint (no clip.* and transformerClip.* weights). "
            "For plain CLIP weights give model.name and model.weights."
        )
    mine = released.convert(weights, str(path))
    model = EERCF(released.describe(mine, str(path)))
    notes = released.complete(mine, model.state_dict(), str(path))
    checkpoint.fill(model, mine, str(path))
    return Checkpoint(model.eval(), source=str(path), notes=tuple(notes))


def _load_named(config: ModelConfig, name: str) -> Checkpoint:
    architecture = named_architecture(name)
    byte_pairs = "hf_tokenizer_name" not in architecture["text_cfg"] and "hf_model_name" not in architecture["text_cfg"]
    # A hub's tokenizer pads with an id of its own, and the towers behind it see the padding: it must fill the length.
    context = architecture["text_cfg"].get("context_length", config.text_length)
    preprocess = _published_preprocessing(name, config.weights)
    spec = ModelSpec(
        architecture=architecture,
        name=name,
        frames=config.frames,
        temporal_layers=config.temporal_layers,
        text_length=min(config.text_length, context) if byte_pairs else context,
        tokenizer=TokenizerSpec(name=None if byte_pairs else name),
        **preprocess,
    )
    model = _seeded(spec, config.seed)
    source = f"{name}, random weights (seed {config.seed})"
    if config.weights != "random":
        assert config.weights is not None
        source = f"{name}, {config.weights}"
        _fill_towers(model, config.weights)
    notes = [] if config.weights != "random" else [f"{name} has random weights: its results mean nothing"]
    if not model.start_temporal_from_text():
        notes.append(
            f"{name}: the text tower's shape does not fit the temporal encoder, which starts from random weights"
        )
    return Checkpoint(model.eval(), source=source, notes=tuple(notes))


def _published_preprocessing(name: str, weights: str | None) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation of the images that published weights were trained with; else CLIP's own."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    # A local file is taken to want what the weights published for this model want.
    tag = open_clip.get_pretrained_cfg(name, weights if weights in tags else tags[0]) if tags else {}
    if tag.get("resize_mode", "shortest") != "shortest":
        raise MgvrError(f"{name} wants images squeezed to a square; frames here keep their aspect and are cropped")
    return {f"image_{key}": tuple(tag[key]) for key in ("mean", "std") if key in tag}


def _fill_towers(model: EERCF, weights: str) -> None:
    name = model.spec.name
    assert name is not None
    tag = open_clip.get_pretrained_cfg(name, weights)
    if tag:
        _require_activation(model, bool(tag.get("quick_gelu", False)), f"the {weights} weights of {name}")
        weights = _fetch(name, weights, tag)
    elif not Path(weights).exists():
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise MgvrError(f"model.weights: no file {weights}, and open_clip has no such tag for {name} (it has: {known})")
    tensors = read_weights(Path(weights))
    if released.is_released(tensors):
        _require_activation(model, True, f"{weights} (an EERCF or CLIP4Clip checkpoint)")
        raise MgvrError(
            f"{weights} is a whole EERCF or CLIP4Clip model: give it as model.checkpoint, without model.name"
        )
    if is_openai_archive(tensors):
        _require_activation(model, True, f"{weights} (an OpenAI archive)")
    tensors = without_bookkeeping(tensors)
    try:
        model.clip.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    except RuntimeError as error:
        raise MgvrError(f"the weights of {weights} do not fit {name}: {error}") from error


def _require_activation(model: EERCF, quick_gelu: bool, what: str) -> None:
    """Refuse weights whose activation is not the model's: they would run, and give wrong numbers without an error."""
    if quick_gelu == (model.spec.activation == "quickgelu"):
        return
    name = str(model.spec.name)
    right = f"{name}-quickgelu" if quick_gelu else name.removesuffix("-quickgelu")
    trained = "QuickGELU" if quick_gelu else "GELU"
    raise MgvrError(
        f"{what} were trained with {trained}, but {name} uses {model.spec.activation}: use --model.name {right}"
    )


def _fetch(name: str, tag_name: str, tag: dict[str, object]) -> str:
    try:
        return str(open_clip.download_pretrained(tag))
    except Exception as error:  # the hub's client raises a dozen kinds, all of them meaning "not to be had"
        raise MgvrError(
            f"the weights {tag_name} of {name} are not on this machine and can't be fetched: {error}. "
            "Fetch them once on a machine with access and give the file as model.weights."
        ) from error
