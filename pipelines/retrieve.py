"""Answer text queries over a feature set in two stages, and report how well.

Reads    features: a feature set of mgvr encode; queries.uri: CSV, Parquet or JSONL with id, text and, where known,
         the ids of the right videos (several may be right); the model that encoded the features
Writes   OUT/results.parquet              the answers of every query, best first, with both stages' scores and ranks
         OUT/run.trec, OUT/qrels.trec     the same for ir-measures and trec_eval
         OUT/report.{json,md,html}        metrics with intervals, both directions, cost, examples with thumbnails

Stage 1 finds k candidates by the coarse vector; stage 2 scores those alone by frames, patches and the coarse score.
Queries without right answers are a plain search: results and thumbnails, no metrics.

  mgvr retrieve --features runs/demo/features --model.checkpoint runs/demo/train/model --queries.uri q.csv --out runs/q
  mgvr retrieve jobs/retrieve.yaml --k 100 --rerank.patch_weak 0
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from mgvr_core.config import LocalPath, Section
from mgvr_core.datasets.queries import QueriesConfig, read_queries
from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.render import write_report
from mgvr_core.evaluation.report import Report
from mgvr_core.features.schema import shape_of
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.model.checkpoint import Checkpoint
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.model.tokenizer import tokenizer_of
from mgvr_core.retrieval.coarse import Candidates, search
from mgvr_core.retrieval.rerank import Reranker
from mgvr_core.retrieval.two_stage import coarse_ranking, reranked
from mgvr_core.scoring.fusion import FusionWeights
from mgvr_core.storage import StorePath
from pipelines.answering import candidate_pairs, encode_texts, load_pool, rerank
from pipelines.answers import Answers, Queries, write_results
from pipelines.measuring import ReportConfig, build_report
from pipelines.models import ComputeConfig, require_made_by
from pipelines.progress import progress
from pipelines.runtime import RayConfig, Stopwatch, cluster, main, summary


class RetrieveConfig(Section):
    """mgvr retrieve."""

    out: LocalPath = Field(description="folder of the answers and the report")
    features: StorePath = Field(description="a feature set that mgvr encode wrote: a folder, s3:// or gs://")
    snapshot: int | None = Field(None, gt=0, description="number of an older snapshot; none: the current one")
    queries: QueriesConfig
    model: ModelConfig
    k: int = Field(50, gt=0, description="candidates of stage 1 that stage 2 scores")
    rerank: FusionWeights = Field(
        FusionWeights(), description="weights of the fused score; what is not set is as `fusion` says"
    )
    fusion: Literal["checkpoint", "released"] = Field(
        "checkpoint",
        description="checkpoint: the weights that training fitted on validation, the released ones where it did not; "
        "released: the paper's constants",
    )
    frame_mixing: bool = Field(True, description="false: switch U off (for videos of another frame count than U's)")
    video_to_text: bool = Field(True, description="answer the other direction too, where right answers are known")
    report: ReportConfig = ReportConfig()
    compute: ComputeConfig = ComputeConfig()
    ray: RayConfig = RayConfig()


def retrieve(config: RetrieveConfig) -> Report:
    """Run the job; raises MgvrError before Ray starts where the features are not the model's or the queries are bad."""
    config.compute.require_present(config.ray)
    queries = Queries.from_table(read_queries(config.queries))
    snapshot = FeatureStore(config.features).snapshot(config.snapshot)
    checkpoint = load_model(config.model)
    reranker = _reranker(config, checkpoint, snapshot)
    watch = Stopwatch()
    with cluster(config.ray):
        with watch.stage("encode texts"), progress("encode texts", len(queries.texts), "encoded") as counter:
            texts = encode_texts(queries.texts, config.model, config.compute.resolved(), counter)
        with watch.stage("read coarse vectors"):
            pool = load_pool(snapshot)
        with watch.stage("stage 1: search"):
            projected = texts.vectors @ reranker.projection.numpy()  # (T, D) @ (D, D)
            candidates = search(projected, pool.video, config.k)
        with watch.stage("stage 2: rerank"):
            scores = rerank(snapshot, pool, reranker, texts, candidate_pairs(candidates))
        shape = candidates.index.shape
        answers = Answers(
            queries=queries,
            pool=pool,
            projected=projected,
            candidates=candidates,
            coarse=coarse_ranking(candidates),
            two_stage=reranked(candidates, scores["fused"].reshape(shape)),
            single={name: reranked(candidates, scores[name].reshape(shape)) for name in reranker.weights.active},
        )
        backwards = None
        if config.video_to_text and len(answers.asking_videos):
            with watch.stage("video to text: both stages"):
                found = search(pool.video[answers.asking_videos], projected[answers.captions], config.k)
                found = Candidates(answers.captions[found.index], found.score)  # rows of all texts
                row, text = candidate_pairs(found)
                fused = rerank(snapshot, pool, reranker, texts, (text, answers.asking_videos[row]))["fused"]
                backwards = (found, reranked(found, fused.reshape(found.index.shape)))
    out = Path(config.out)
    with watch.stage("write results"):
        write_results(answers, out)
    configuration = config.model_dump(mode="json")
    report = build_report(
        config.report, configuration, answers, backwards, texts, checkpoint, snapshot, reranker.weights, watch
    )
    files = write_report(report, out)
    print(_summary(report, files["report.html"]))
    return report


def _reranker(config: RetrieveConfig, checkpoint: Checkpoint, snapshot: Snapshot) -> Reranker:
    """The fused score for these features; raises MgvrError where model and features do not belong together."""
    model = checkpoint.model
    tokenizer_of(model.spec)  # a text tower without its tokenizer is refused here, not by the first worker
    require_made_by(snapshot, checkpoint)
    shape = shape_of(snapshot.schema())
    stored = checkpoint.about.get("fusion", {}) if config.fusion == "checkpoint" else {}
    weights = FusionWeights(**{**stored, **config.rerank.model_dump(exclude_unset=True)})
    if weights.needs_patches and not shape.patches:
        raise MgvrError(
            f"the features in {config.features} have no patches, which the rerank needs: encode with "
            "--features.patches true, or leave them out with --rerank.patch_weak 0 --rerank.tib_patch 0"
        )
    if not weights.active:
        raise MgvrError("rerank: all weights are 0, so there is nothing to rerank by")
    mixing = model.mixing_for(shape.frames, enabled=config.frame_mixing and weights.frame_weak > 0)
    return Reranker(
        weights,
        model.video_projection.detach().float().clone(),
        None if mixing is None else mixing.detach().float().clone(),
    )


def _summary(report: Report, page: Path) -> str:
    rows = {"queries": f"{report.queries} over {report.pool} videos"}
    if report.metrics is not None:
        for name, direction in (
            ("text to video", report.metrics.text_to_video),
            ("video to text", report.metrics.video_to_text),
        ):
            if direction is not None:
                coarse, fine = direction.coarse["R@1"].value, direction.two_stage["R@1"].value
                rows[name] = f"R@1 {100 * coarse:.1f} coarse, {100 * fine:.1f} two-stage"
    rows["stages"] = ", ".join(f"{stage.name} {stage.seconds:.1f} s" for stage in report.stages)
    rows["warnings"] = str(len(report.warnings)) if report.warnings else "none"
    rows["report"] = str(page)
    return summary("retrieve: done", rows)


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code."""
    return main(RetrieveConfig, retrieve, "mgvr retrieve", __doc__, argv)


if __name__ == "__main__":
    sys.exit(run())
