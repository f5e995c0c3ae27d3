"""A training as plain data: what its driver hands to the workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mgvr_core.scoring.fusion import FusionWeights
from mgvr_core.training.losses import LossConfig
from mgvr_core.training.optimiser import OptimiserConfig
from mgvr_core.training.pairs import Batches, Captioned
from mgvr_core.training.step import MemoryConfig
from mgvr_core.training.trained import Trained
from mgvr_core.training.validation import FusionChoice
from pipelines.fitting import RunFolder
from pipelines.kept import KeptFiles
from pipelines.models import DeviceConfig
from pipelines.sources import Stream


@dataclass(frozen=True)
class Split:
    """Captioned videos and where they come from."""

    captioned: Captioned
    source: KeptFiles | Stream
    texts: str | None = None
    """File of the captions' vectors, where the text tower is frozen and they were computed once."""


@dataclass(frozen=True)
class TrainingTask(RunFolder):
    """Everything that a worker needs, as plain data."""

    start: str
    """Folder of the checkpoint to start from."""
    train: Split
    validation: Split | None
    test: Split | None
    """Measured by nobody but the driver, when all is chosen."""
    batch_size: int
    epochs: int
    seed: int
    compute: DeviceConfig
    trained: Trained
    loss: LossConfig
    optimiser: OptimiserConfig
    memory: MemoryConfig
    frames: int
    """Frames a video, for which U is needed."""
    rerank: FusionWeights
    fusion: FusionChoice
    k: int
    metric: str
    """What the best checkpoints are best at, a name of the log."""
    every_steps: int | None
    keep_best: int
    about: dict[str, Any]
    """What the checkpoints say about themselves."""

    @property
    def run(self) -> str:
        """The run's fingerprint."""
        return str(self.about["run"])

    @property
    def batches(self) -> Batches:
        """The steps."""
        return Batches(self.train.captioned, self.batch_size, self.epochs, self.seed)
