"""What mgvr train --scorer can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mgvr_core.config import LocalPath, Section
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.model.load import ModelConfig
from mgvr_core.storage import StorePath
from mgvr_core.training.head_step import HeadOptimiserConfig
from pipelines.models import DeviceConfig
from pipelines.runtime import RayConfig


class HeadConfig(Section):
    """mgvr train --scorer."""

    out: LocalPath = Field(description="folder of the run; the trained scorer goes to OUT/head")
    scorer: str = Field(description="the learned scorer, by its name")
    features: StorePath = Field(description="a feature set with the training videos, as mgvr encode wrote it")
    corpus: CorpusConfig = Field(description="captioned training videos; the set's, by their ids or their uris")
    validation: CorpusConfig | None = Field(
        None, description="captioned videos to choose the epoch on; none: the last epoch is taken"
    )
    validation_features: StorePath | None = Field(
        None, description="the feature set with the validation videos; none: they are in `features`"
    )
    model: ModelConfig
    """The model that made the features; its towers stay as they are."""
    optimiser: HeadOptimiserConfig = HeadOptimiserConfig()
    batch_size: int = Field(64, gt=1, description="pairs in a batch, over all workers")
    epochs: int = Field(5, gt=0, description="times that every pair is seen")
    seed: int = Field(0, ge=0, description="seed of the scorer's first weights and of the order of the pairs")
    data: LocalPath | None = Field(
        None, description="folder of encoded captions and unpacked features, which runs may share; none: OUT/data"
    )
    workers: int = Field(1, gt=0, description="training workers; on a GPU cluster one a GPU")
    restart: Literal["no", "changed", "yes"] = Field(
        "no",
        description="no: go on with the run in OUT, and refuse to if it began with other data or settings. changed: "
        "throw such a run away and begin again. yes: begin again anyway",
    )
    compute: DeviceConfig = DeviceConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _fits(self) -> HeadConfig:
        if self.workers > self.batch_size:
            raise ValueError(f"a batch_size of {self.batch_size} leaves some of {self.workers} workers without a pair")
        if self.validation_features is not None and self.validation is None:
            raise ValueError("validation_features are there, but no validation: give its captions, or leave them out")
        if self.compute.precision == "bfloat16":
            raise ValueError("scorers are trained in float32: leave compute.precision out")
        return self
