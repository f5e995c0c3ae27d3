"""What codes of the fine features cost in recall and save in bytes, and what a certificate asks for.

Reads the demo's corpus (`make demo`), and its model or another that was trained on it: MGVR_BENCH_MODEL. The coded sets
come from `mgvr corpus recode`, the figures from `mgvr retrieve`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.datasets.queries import QueriesConfig
from mgvr_core.evaluation.report import Report
from mgvr_core.features.layout import CodecConfig
from mgvr_core.model.load import ModelConfig
from mgvr_core.scoring.fusion import FusionWeights
from pipelines.answering import CertifyConfig
from pipelines.encode import EncodeConfig, encode
from pipelines.measuring import ReportConfig
from pipelines.recoding import RecodeConfig, recode
from pipelines.retrieve import RetrieveConfig, retrieve
from pipelines.runtime import RayConfig, cluster

DEMO = Path("runs/demo")
MODEL = Path(os.environ.get("MGVR_BENCH_MODEL", DEMO / "train" / "model"))
CODECS = {
    "plain": None,
    "fp16": {"values": "fp16"},
    "int8": {"values": "int8"},
    "int8, 4 tokens": {"values": "int8", "tokens": 4},
    "fp16, 4 tokens": {"values": "fp16", "tokens": 4},
    "fp16, 2 tokens": {"values": "fp16", "tokens": 2},
    "pq, 2 bits": {"values": "pq", "subvectors": 32},
    "pq, 1 bit": {"values": "pq", "subvectors": 16},
    "pq, 1/2 bit": {"values": "pq", "subvectors": 8},
    "pq, 1/4 bit": {"values": "pq", "subvectors": 4},
    "pq, 2 bits, 4 tokens": {"values": "pq", "subvectors": 32, "tokens": 4},
    "pq, 1 bit, 4 tokens": {"values": "pq", "subvectors": 16, "tokens": 4},
    "pq, 1/2 bit, 4 tokens": {"values": "pq", "subvectors": 8, "tokens": 4},
}
"""By name; bits are those of a dimension."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not (DEMO / "corpus" / "test.jsonl").exists():
        pytest.skip("there is no demo corpus: run make demo first")
    folder = tmp_path_factory.mktemp("codecs")
    with cluster(RayConfig()):
        corpus = CorpusConfig(uri=str(DEMO / "corpus" / "test.jsonl"))
        encode(EncodeConfig(out=str(folder / "plain"), corpus=corpus, model=ModelConfig(checkpoint=str(MODEL))))
        yield folder


def answered(folder: Path, name: str, out: str, weights: FusionWeights | None = None, **options: object) -> Report:
    return retrieve(
        RetrieveConfig(
            out=str(folder / out),
            features=str(folder / name),
            queries=QueriesConfig(uri=str(DEMO / "corpus" / "test-queries.jsonl")),
            model=ModelConfig(checkpoint=str(MODEL)),
            rerank=weights or FusionWeights(),
            video_to_text=False,
            report=ReportConfig(bootstrap=200, examples=0),
            **options,
        )
    )


def test_recall_against_bytes(plain: Path) -> None:
    rows = []
    for name, codec in CODECS.items():
        if codec is not None:
            recode(RecodeConfig(features=str(plain / "plain"), out=str(plain / name), codec=CodecConfig(**codec)))
        report = answered(plain, name, f"answers-{name}", FusionWeights(patch_weak=0.5))
        assert report.metrics is not None
        assert report.stored is not None
        figures = report.metrics.text_to_video
        seconds = {stage.name: stage.seconds for stage in report.stages}
        recalls = [100 * figures.two_stage[key].value for key in ("R@1", "R@10")]
        alone = 100 * figures.scores["patch_weak"]["R@1"].value
        rows.append((name, report.stored.coarse + report.stored.fine, *recalls, alone, seconds["stage 2: rerank"]))
    reference = rows[0]
    print(f"\n{'code':24} {'bytes a video':>14} {'R@1':>6} {'R@10':>6} {'patches alone':>14} {'time':>6}")
    for name, size, first, ten, alone, seconds in rows:
        print(f"{name:24} {size:14,} {first:6.1f} {ten:6.1f} {alone:14.1f} {seconds / reference[-1]:5.2f}x")


@pytest.mark.parametrize("name", ["fp16", "int8", "pq, 1 bit, 4 tokens"])
@pytest.mark.parametrize(
    "weights",
    [
        pytest.param(FusionWeights(), id="released"),
        pytest.param(FusionWeights(patch_weak=0), id="frames"),
        pytest.param(FusionWeights(video=1, frame_weak=0, tib_frame=1, patch_weak=0), id="video and TIB"),
    ],
)
def test_what_a_certificate_asks_for(plain: Path, name: str, weights: FusionWeights) -> None:
    if not (plain / name).exists():
        recode(RecodeConfig(features=str(plain / "plain"), out=str(plain / name), codec=CodecConfig(**CODECS[name])))
    for limit in (100, 400):
        report = answered(
            plain, name, f"certified-{name}-{limit}", weights, k=50, certify=CertifyConfig(top=10, limit=limit)
        )
        proof = report.certificate
        assert proof is not None
        print(
            f"\n{name}, {', '.join(weights.active)}, at most {limit} of {report.pool}: "
            f"{100 * proof.certified / proof.texts:.1f} % certified, mean k {proof.mean_k:.1f}"
        )
