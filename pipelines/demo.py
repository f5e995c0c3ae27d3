"""The whole job on videos made on the spot: no weights, no network, no data.

Writes   OUT/corpus/     real mp4 files of coloured shapes on textures, with captions; train, validation and test
         OUT/train/      a small model trained on them; training.html says how it went
         OUT/features/   the test videos, encoded
         OUT/results.parquet, run.trec, qrels.trec   the answers to their captions
         OUT/report.{html,md,json,csv,tex}           coarse against two-stage retrieval

The captions name one short event of several in a video, or the order of two. One vector for a whole video can hardly
tell; frames and patches can. That is what two-stage retrieval is for, and what the report measures.

  mgvr demo
  mgvr demo --out runs/small --corpus.train 300 --epochs 2
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from mgvr_core.config import LocalPath, Section
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.datasets.queries import QueriesConfig
from mgvr_core.datasets.scenes import ProceduralConfig, Split
from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.report import Direction, Report
from mgvr_core.model.load import ModelConfig
from mgvr_core.training.optimiser import OptimiserConfig
from mgvr_core.video.sampling import SamplingConfig
from pipelines.encode import EncodeConfig, FeaturesConfig, encode
from pipelines.making import make_corpus
from pipelines.measuring import ReportConfig
from pipelines.retrieve import RetrieveConfig, retrieve
from pipelines.runtime import RayConfig, cluster, main, summary
from pipelines.train import TrainConfig, train

_ARCHITECTURE = {
    "embed_dim": 128,
    "quick_gelu": False,
    "init_logit_scale": math.log(20),
    "vision_cfg": {"image_size": 48, "patch_size": 16, "width": 128, "head_width": 64, "layers": 3},
    "text_cfg": {"context_length": 24, "width": 128, "heads": 2, "layers": 2},
}
"""Towers that two CPU cores train in minutes; the vocabulary is that of the training captions.

GELU, because it is the faster on a CPU. A higher temperature than CLIP starts from (1 / 0.07): on one that low the loss
of so short a training rests at chance for its first third.
"""


class DemoConfig(Section):
    """mgvr demo."""

    out: LocalPath = Field("runs/demo", description="folder of everything that the demo makes")
    corpus: ProceduralConfig = ProceduralConfig()
    epochs: int = Field(3, gt=0, description="times that every training caption is seen")
    seed: int = Field(0, description="seed of the model's weights and of the order of the captions")
    ray: RayConfig = RayConfig()


def demo(config: DemoConfig) -> Report:
    """Make the corpus, train, encode, retrieve, and compare coarse with two-stage retrieval."""
    began = time.monotonic()
    out = Path(config.out)
    _claim(out)
    with cluster(config.ray):
        make_corpus(out / "corpus", config.corpus)
        trained = train(_training(config, out))
        model = ModelConfig(checkpoint=str(trained))
        encode(
            EncodeConfig(
                out=_fresh(out / "features"),
                corpus=_corpus(out, "test"),
                model=model,
                features=FeaturesConfig(rows_per_shard=128),
                ray=config.ray,
            )
        )
        report = retrieve(
            RetrieveConfig(
                out=str(out),
                features=str(out / "features"),
                queries=QueriesConfig(uri=str(out / "corpus" / "test-queries.jsonl")),
                model=model,
                report=ReportConfig(title="mgvr demo: one short event among several"),
                ray=config.ray,
            )
        )
    print(_closing(report, out, time.monotonic() - began))
    return report


def _claim(out: Path) -> None:
    """Make the folder the demo's own; raises MgvrError for one that holds something else, which a run would replace."""
    marker = out / ".mgvr-demo"
    if out.exists() and any(out.iterdir()) and not marker.exists():
        raise MgvrError(f"{out} holds files that no demo made: choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _training(config: DemoConfig, out: Path) -> TrainConfig:
    frames = 8  # two or three of every event
    return TrainConfig(
        out=str(out / "train"),
        corpus=_corpus(out, "train"),
        validation=_corpus(out, "validation"),
        model=ModelConfig(
            architecture=_ARCHITECTURE,
            vocabulary="captions",
            temporal_layers=1,
            seed=config.seed,
            frames=frames,
            text_length=24,
        ),
        sampling=SamplingConfig(strategy="uniform", frames=frames),
        optimiser=OptimiserConfig(lr=1e-3, clip_lr_factor=1.0),
        batch_size=64,
        epochs=config.epochs,
        seed=config.seed,
        restart="changed",  # the folder is the demo's own
        ray=config.ray,
    )


def _corpus(out: Path, split: Split) -> CorpusConfig:
    return CorpusConfig(uri=str(out / "corpus" / f"{split}.jsonl"))


def _fresh(folder: Path) -> str:
    """A folder of this run alone: features of an earlier model are of another fingerprint, and would be refused."""
    if folder.exists():
        shutil.rmtree(folder)
    return str(folder)


def _closing(report: Report, out: Path, seconds: float) -> str:
    assert report.metrics is not None
    direction = report.metrics.text_to_video
    gain = direction.gain["R@1"]
    verdict = "excludes 0" if gain.excludes_zero else "does not exclude 0"
    interval = f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    rows = {
        "corpus": f"{report.queries} captions of {report.pool} held-out videos, none seen in training",
        "coarse": _figures(direction, "coarse"),
        "two-stage": _figures(direction, "two_stage"),
        "gain of R@1": f"{100 * gain.value:+.1f} points, 95 % interval {interval}: {verdict}",
        "ceiling": f"{100 * direction.recall_at_k.value:.1f} % of the answers are among the {direction.k} candidates",
        "time": f"{seconds:.0f} s",
        "report": str((out / "report.html").absolute()),
    }
    return "\n" + summary("mgvr demo: done", rows)


def _figures(direction: Direction, system: str) -> str:
    figures = direction.coarse if system == "coarse" else direction.two_stage
    recalls = "   ".join(f"{name} {100 * figures[name].value:5.1f}" for name in ("R@1", "R@5", "R@10"))
    return f"{recalls}   MdR {figures['MdR'].value:g}"


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code."""
    return main(DemoConfig, demo, "mgvr demo", __doc__, argv)


if __name__ == "__main__":
    sys.exit(run())
