"""What mgvr train can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mgvr_core.config import LocalPath, Section
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.model.load import ModelConfig
from mgvr_core.scoring.fusion import FusionWeights
from mgvr_core.storage import StorePath
from mgvr_core.training.losses import LossConfig
from mgvr_core.training.optimiser import OptimiserConfig
from mgvr_core.training.pairs import CaptionUse
from mgvr_core.training.step import MemoryConfig
from mgvr_core.training.trained import Trained
from mgvr_core.training.validation import FusionChoice
from mgvr_core.video.sampling import SamplingConfig
from pipelines.decoding import DecodingConfig
from pipelines.models import DeviceConfig
from pipelines.runtime import RayConfig
from pipelines.splits import ClipsConfig


class SelectionConfig(Section):
    """How the best epoch is chosen, on the validation split."""

    metric: Literal["fused", "video", "frame_weak", "tib_frame", "patch_weak", "tib_patch"] = Field(
        "fused", description="whose R@1 decides; fused: the two-stage search's, with its fitted weights"
    )
    k: int = Field(50, gt=0, description="candidates of stage 1 that the fusion is fitted and measured on")
    allow_test: bool = Field(
        False, description="accept splits that share videos, or a test split to choose on; every report will say so"
    )


class CheckpointsConfig(Section):
    """What a run keeps to go on from. Each epoch has a checkpoint anyway."""

    every_steps: int | None = Field(500, gt=0, description="steps between checkpoints within an epoch; null: none")
    keep_best: int = Field(1, gt=0, description="best epochs whose checkpoints are kept beside the last")
    max_restarts: int = Field(3, ge=-1, description="times the workers are started anew when one is lost; -1: always")


class TrainConfig(Section):
    """mgvr train."""

    out: LocalPath = Field(description="folder of the run; the checkpoint goes to OUT/model")
    corpus: CorpusConfig = Field(description="captioned training videos")
    validation: CorpusConfig | None = Field(None, description="captioned videos to choose the epoch and the fusion on")
    test: CorpusConfig | None = Field(
        None, description="captioned videos that nothing is chosen on: measured once, at the end"
    )
    features: StorePath | None = Field(
        None, description="a feature set of this model with these videos: heads are trained from it, not from videos"
    )
    model: ModelConfig
    trained: Trained = Field(
        "all", description="all; heads: CLIP is frozen; a number: heads and that many last blocks of CLIP's towers"
    )
    sampling: SamplingConfig = SamplingConfig()
    decoding: DecodingConfig = DecodingConfig()
    clips: ClipsConfig = ClipsConfig()
    captions: CaptionUse = Field(
        "expand", description="expand: every caption is a pair; sample: one caption of each video an epoch"
    )
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    batch_size: int = Field(240, gt=1, description="pairs in a batch, over all workers")
    epochs: int = Field(5, gt=0, description="times that every pair is seen")
    seed: int = Field(0, ge=0, description="seed of the order of the pairs")
    memory: MemoryConfig = MemoryConfig()
    rerank: FusionWeights = Field(
        FusionWeights(), description="which scores the rerank fuses: 0 leaves one out; their weights unless fitted"
    )
    fusion: FusionChoice = Field(
        "fitted",
        description="fitted: the rerank's weights are fitted on validation (without one: as released). released: they "
        "stay as `rerank` has them, by default the paper's",
    )
    selection: SelectionConfig = SelectionConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    workers: int = Field(1, gt=0, description="training workers; on a GPU cluster one a GPU")
    restart: Literal["no", "changed", "yes"] = Field(
        "no",
        description="no: go on with the run in OUT, and refuse to if it began with other data or settings. changed: "
        "throw such a run away and begin again. yes: begin again anyway. Clips are kept",
    )
    compute: DeviceConfig = DeviceConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.batch_size % self.workers:
            raise ValueError(f"batch_size {self.batch_size} can't be shared equally by {self.workers} workers")
        if self.features is not None and self.trained != "heads":
            raise ValueError("features train the heads alone: set --trained heads, or leave --features out")
        if not self.rerank.active:
            raise ValueError("rerank: all weights are 0, so there is nothing to validate")
        if not self.loss.trains_heads and not self.loss.needs_patches:
            raise ValueError("loss: all terms are switched off, so there is nothing to learn from")
        if not self.loss.trains_heads and self.trained == "heads":
            raise ValueError("loss: only patch terms are left, and no head is trained by them: set --trained all")
        scores = {"fused", "video", *self.rerank.active}
        if self.selection.metric not in scores:
            raise ValueError(f"selection.metric is {self.selection.metric}, but rerank has only {sorted(scores)}")
        return self

    @property
    def needs_patches(self) -> bool:
        """Whether a term of the loss or of the rerank reads patch features."""
        return self.loss.needs_patches or self.rerank.needs_patches
