"""Models as the jobs use them: on which device, and the fingerprint of what they make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from mgvr_core.config import Section
from mgvr_core.errors import MgvrError
from mgvr_core.features.codec import Codec
from mgvr_core.features.schema import SCHEMA_VERSION, FeatureShape
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.identity import Fingerprint
from mgvr_core.model.checkpoint import Checkpoint, weights_hash
from mgvr_core.model.eercf import EERCF
from mgvr_core.model.int8 import require_int8
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.model.spec import ModelSpec
from mgvr_core.video.preprocess import PreprocessConfig
from mgvr_core.video.sampling import SamplingConfig
from pipelines.runtime import RayConfig, available_cores

MODEL_PARTS = ("weights", "activation")
"""The parts of a feature set's fingerprint that a model must share to search it."""


class DeviceConfig(Section):
    """What a model runs on."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: a GPU where the driver's machine has one; say cuda where only the workers have"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the towers; auto: bfloat16 on a GPU, float32 on a CPU; losses and scores are float32"
    )
    threads: int | None = Field(
        None, gt=0, description="CPU threads of a model; none: the machine's cores, shared equally"
    )

    def torch_device(self) -> torch.device:
        """The device by its final name."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def thread_count(self, sharing: int) -> int:
        """CPU threads of one model where `sharing` of them run on a machine."""
        return self.threads or max(1, available_cores() // sharing)

    def final_precision(self) -> str:
        """`float32`, `bfloat16` or, in the encode job, `int8`."""
        if self.precision == "auto":
            return "bfloat16" if self.gpus else "float32"
        return str(self.precision)

    @property
    def gpus(self) -> int:
        """GPUs that one model takes."""
        return int(self.torch_device().type == "cuda")

    def autocast(self) -> torch.autocast:
        """Autocast to bfloat16; does nothing at another precision."""
        return torch.autocast(self.torch_device().type, torch.bfloat16, enabled=self.final_precision() == "bfloat16")

    def require_present(self, ray: RayConfig) -> None:
        """Raise MgvrError for a GPU on a machine without one; on a cluster it may be on another, or still to come."""
        if self.gpus and ray.starts_here() and not torch.cuda.is_available():
            raise MgvrError("the device is cuda, but PyTorch finds no GPU on this machine: set it to cpu or auto")

    def resolved(self) -> Self:
        """The same without `auto`, so that workers do as the driver decided."""
        return self.model_copy(update={"device": self.torch_device().type, "precision": self.final_precision()})


class ComputeConfig(DeviceConfig):
    """What the models of a pipeline run on."""

    batch_size: int | None = Field(
        None, gt=0, description="videos that go through a model at once; none: 8 on a CPU, 32 on a GPU"
    )
    workers: int = Field(1, gt=0, description="models side by side; on GPUs one a GPU")

    @property
    def videos_at_once(self) -> int:
        """The batch size, as it is or as the device wants it."""
        return self.batch_size or (32 if self.gpus else 8)


class EncoderConfig(ComputeConfig):
    """What the models of the encode job run on: the one job whose model can run in int8."""

    # Wider than it is for training and search, which refuse int8 as they do any unknown word.
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(  # type: ignore[assignment]
        "auto",
        description="of the image tower; auto: bfloat16 on a GPU, float32 on a CPU. int8: on a CPU and for plain ViT "
        "towers; a ViT-B/32 encodes 1.3 to 2 times as fast as at float32, and every vector keeps a cosine of at least "
        "0.999 to float32's. Its features are a set of their own, and the same model searches them",
    )

    def require_present(self, ray: RayConfig) -> None:
        """Raise MgvrError for a device that is not there, and for int8 on a GPU."""
        super().require_present(ray)
        if self.precision == "int8" and self.gpus:
            found = " (auto found a GPU)" if self.device == "auto" else ""
            raise MgvrError(
                f"precision int8 runs on a CPU, but the device is cuda{found}: set compute.device to cpu, "
                "or compute.precision to auto, which is bfloat16 on a GPU"
            )


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
    """Everything that shapes a feature, by name; `decoder` with its version, as `DecodingConfig.version` tells it."""
    parts: dict[str, Any] = {
        **model_fingerprint(model).parts,
        "preprocessing": preprocessing(model.spec).model_dump(mode="json"),
        "sampling": sampling.model_dump(mode="json"),
        "decoder": decoder,
        "patches": shape.patches,
        "precision": precision,
        "dtype": "float16",
        "schema": SCHEMA_VERSION,
    }
    return Fingerprint(parts)


def require_made_by(snapshot: Snapshot, checkpoint: Checkpoint) -> None:
    """Raise MgvrError where another model made the features, or where there are none."""
    different = snapshot.fingerprint.differences(model_fingerprint(checkpoint.model), MODEL_PARTS)
    if different:
        raise MgvrError(
            f"the features in {snapshot.url} were not made by {checkpoint.source}:\n  "
            + "\n  ".join(different)
            + "\nGive the model that encoded them, or encode the corpus with this one into another folder."
        )
    if not snapshot.rows:
        raise MgvrError(f"{snapshot.url} holds no video: every file of the corpus failed, see its failures table")


@dataclass(frozen=True)
class FeatureMaker:
    """All that the encode job needs to know of its model; the model itself is loaded where it runs."""

    fingerprint: Fingerprint
    sampling: SamplingConfig
    shape: FeatureShape
    image_size: int
    source: str
    notes: tuple[str, ...]
    codec: Codec | None = None
    """How the features are coded; None: not at all."""

    @property
    def stored(self) -> FeatureShape:
        """The sizes of what is stored: merged patches are fewer than `shape` has, which the model makes."""
        tokens = self.codec.config.tokens if self.codec is not None else 0
        return replace(self.shape, patches=tokens or self.shape.patches)


def feature_maker(
    config: ModelConfig, asked: SamplingConfig, decoder: str, patches: bool, compute: ComputeConfig
) -> FeatureMaker:
    """What a model makes of videos so sampled and decoded.

    Raises MgvrError for patches that it has not, and for int8 where it can't run so.
    """
    checkpoint = load_model(config)
    model = checkpoint.model
    sampling = sampling_for(checkpoint, asked)
    if patches and not model.has_patches:
        raise MgvrError(f"{checkpoint.source} has no patch features: set --features.patches false")
    if compute.final_precision() == "int8":
        require_int8(model)
    shape = FeatureShape(sampling.frames, model.spec.dim, model.patches_per_frame if patches else 0)
    fingerprint = feature_fingerprint(model, sampling, decoder, shape, compute.final_precision())
    return FeatureMaker(fingerprint, sampling, shape, model.spec.image_size, checkpoint.source, tuple(checkpoint.notes))


def text_vectors(model: EERCF, ids: Tensor) -> Tensor:
    """Ids (B, L) -> unit text vectors (B, D) in fp32."""
    with torch.inference_mode():
        return torch.nn.functional.normalize(model.encode_text(ids).float(), dim=-1)
