"""Models as the jobs use them: loaded once a process, and the fingerprint of what they make."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from mgvr_core.config import Section
from mgvr_core.features.schema import SCHEMA_VERSION, FeatureShape
from mgvr_core.identity import Fingerprint
from mgvr_core.model.checkpoint import Checkpoint, weights_hash
from mgvr_core.model.eercf import EERCF
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.model.spec import ModelSpec
from mgvr_core.video.decoders import decoder_version
from mgvr_core.video.preprocess import PreprocessConfig
from mgvr_core.video.sampling import SamplingConfig
from pipelines.runtime import Device

MODEL_PARTS = ("weights", "activation")
"""The parts of a feature set's fingerprint that a model must share to search it."""


class ComputeConfig(Section):
    """The device the model runs on."""

    device: Device = Field("auto", description="where the model runs; auto: the GPU where there is one")
    threads: int | None = Field(None, gt=0, description="CPU threads of the model; none: all cores of the machine")
    batch_size: int = Field(8, gt=0, description="videos (encode) that go through the model at once")


@lru_cache(maxsize=1)
def cached_model(config: ModelConfig) -> Checkpoint:
    """The model, loaded once a process."""
    return load_model(config)


def preprocessing(spec: ModelSpec) -> PreprocessConfig:
    """How frames are prepared for a model's image tower."""
    return PreprocessConfig(size=spec.image_size, mean=spec.image_mean, std=spec.image_std)


def sampling_for(checkpoint: Checkpoint, asked: SamplingConfig) -> SamplingConfig:
    """The frame sampling: what the user set, the rest as the model was trained, the rest of that by default."""
    trained = checkpoint.about.get("sampling", {"frames": checkpoint.model.spec.frames})
    return SamplingConfig(**{**trained, **asked.model_dump(exclude_unset=True)})


def model_fingerprint(model: EERCF) -> Fingerprint:
    """The parts that a search needs: the same weights run in the same way."""
    return Fingerprint({"weights": weights_hash(model), "activation": model.spec.activation})


def feature_fingerprint(
    model: EERCF, sampling: SamplingConfig, decoder: str, shape: FeatureShape, precision: str
) -> Fingerprint:
    """Everything that shapes a feature, by name."""
    parts: dict[str, Any] = {
        **model_fingerprint(model).parts,
        "preprocessing": preprocessing(model.spec).model_dump(mode="json"),
        "sampling": sampling.model_dump(mode="json"),
        "decoder": decoder_version(decoder),
        "patches": shape.patches,
        "precision": precision,
        "dtype": "float16",
        "schema": SCHEMA_VERSION,
    }
    return Fingerprint(parts)


def precision_on(device: torch.device) -> str:
    """What the towers compute in: bf16 on a GPU that has it, fp32 otherwise."""
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def autocast(device: torch.device) -> torch.autocast:
    """Autocast to `precision_on(device)`; does nothing at fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision_on(device) == "bfloat16")


def text_vectors(model: EERCF, ids: Tensor) -> Tensor:
    """Ids (B, L) -> unit text vectors (B, D) in fp32."""
    with torch.inference_mode():
        return torch.nn.functional.normalize(model.encode_text(ids).float(), dim=-1)
