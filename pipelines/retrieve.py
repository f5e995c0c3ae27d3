"""Answer text queries over a feature set in two stages, and report how well.

Reads    features: a feature set of mgvr encode; queries.uri: CSV, Parquet or JSONL with id, text and, where known,
         the ids of the right videos (several may be right); the model that encoded the features
Writes   OUT/results.parquet              the answers of every query, best first, with both stages' scores and ranks
         OUT/run.trec, OUT/qrels.trec     the same for ir-measures and trec_eval
         OUT/report.{html,md,json,csv,tex}  metrics with intervals, both directions, cost, examples with thumbnails
         OUT/work/                        what is finished: the same command again goes on from it, or sums up only

Stage 1 finds k candidates by the coarse vector; stage 2 scores those alone by frames, patches and the coarse score.
Queries without right answers are a plain search: results and thumbnails, no metrics.

  mgvr retrieve --features runs/demo/features --model.checkpoint runs/demo/train/model --queries.uri q.csv --out runs/q
  mgvr retrieve jobs/retrieve.yaml --k 100 --rerank.patch_weak 0
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mgvr_core.config import LocalPath, Section
from mgvr_core.datasets.queries import QueriesConfig, read_queries
from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.hubness import CorrectionConfig
from mgvr_core.evaluation.render import write_report
from mgvr_core.evaluation.report import Report
from mgvr_core.features.schema import shape_of
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import hash_json
from mgvr_core.model.checkpoint import Checkpoint
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.model.tokenizer import tokenizer_of
from mgvr_core.retrieval.index import check as check_index
from mgvr_core.retrieval.rerank import Reranker
from mgvr_core.scoring.fusion import FusionWeights
from mgvr_core.storage import StorePath
from pipelines.answering import (
    CERTIFY,
    RERANK,
    SEARCH,
    CertifyConfig,
    answer_texts,
    answer_videos,
    index_identity,
    index_use,
    opened,
    place_lost,
    store_use,
    stored_use,
)
from pipelines.answers import Answers, Queries
from pipelines.environment import computing_versions
from pipelines.measuring import Found, ReportConfig, build_report
from pipelines.models import ComputeConfig, model_fingerprint, require_made_by
from pipelines.pool import load_pool
from pipelines.progress import progress
from pipelines.results import write_results
from pipelines.runtime import RayConfig, Stopwatch, cluster, main, summary
from pipelines.searching import Crew, SearchConfig
from pipelines.texts import encode_texts
from pipelines.work import earlier_seconds, keep_seconds, tidy, work_folder

_RESUMABLE = ("encode texts", SEARCH, RERANK, CERTIFY, "place what stage 1 lost", "video to text: both stages")
"""Stages that are done once for a job, whatever number of runs it takes: the report tells their time of all of them."""


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
    certify: CertifyConfig | None = Field(
        None, description="prove the first places of the lists, or find what belongs there; none: a fixed k"
    )
    corrections: tuple[CorrectionConfig, ...] = Field(
        (), description="corrections of hubness, each a row of the report beside the uncorrected ones"
    )
    bank: QueriesConfig | None = Field(None, description="training captions, which QB-Norm reads, and Sinkhorn may")
    search: SearchConfig = SearchConfig()
    report: ReportConfig = ReportConfig()
    compute: ComputeConfig = ComputeConfig()
    ray: RayConfig = RayConfig()


def retrieve(config: RetrieveConfig) -> Report:
    """Run the job; raises MgvrError before Ray starts where the features are not the model's or the queries are bad."""
    config.compute.require_present(config.ray)
    config.report.protocol()
    bank = [] if config.bank is None else read_queries(config.bank)["text"].to_pylist()
    queries = Queries.from_table(read_queries(config.queries), bank)
    snapshot = FeatureStore(config.features).snapshot(config.snapshot)
    checkpoint = load_model(config.model)
    reranker = _reranker(config, checkpoint, snapshot)
    _require_searchable(config, snapshot)
    out, watch = Path(config.out), Stopwatch()
    texts = work_folder(out, "texts", _texts_identity(config, queries, checkpoint))
    lists = work_folder(out, "lists", _lists_identity(config, queries, texts, snapshot, reranker))
    earlier_seconds(lists, watch)
    with watch.stage("list videos"):
        pool = load_pool(snapshot)
    answers = opened(
        texts,
        lists,
        queries,
        pool,
        reranker,
        config.k,
        config.search.queries_at_once,
        config.certify,
        config.video_to_text,
    )
    if not answers.whole:
        with cluster(config.ray):
            _answer(config, snapshot, reranker, answers, lists, watch)
    with watch.stage("write results"):
        write_results(answers, out)
    found = Found(answers, stored_use(lists), config.corrections, config.certify)
    configuration = config.model_dump(mode="json")
    report = build_report(config.report, configuration, found, checkpoint, snapshot, reranker.weights, watch)
    files = write_report(report, out)
    tidy(out, (texts, lists))
    print(_summary(report, files["report.html"]))
    return report


def _answer(
    config: RetrieveConfig, snapshot: Snapshot, reranker: Reranker, answers: Answers, folder: Path, watch: Stopwatch
) -> None:
    """Whatever an earlier run has not finished."""
    compute, total = config.compute.resolved(), len(answers.queries.texts)

    def done() -> None:
        keep_seconds(folder, watch, _RESUMABLE)

    with watch.stage("encode texts"), progress("encode texts", total, "encoded") as counter:
        encode_texts(answers.queries.texts, config.model, compute, answers.texts, counter)
    with watch.stage("start workers"):
        crew = Crew(snapshot, answers.pool, config.search, compute, config.ray.stall_s)
        if config.search.index is not None:
            crew.use_index(config.search.index, Path(config.out) / "index", index_identity(snapshot))
    with progress("search", total, "answered") as counter:
        answer_texts(crew, reranker, answers, config.certify, watch, counter, done)
    with watch.stage("place what stage 1 lost"):
        place_lost(crew, answers)
    with (
        watch.stage("video to text: both stages"),
        progress("video to text", answers.videos.total, "answered") as counter,
    ):
        answer_videos(crew, reranker, answers, counter)
    if config.search.index is not None:
        with watch.stage("recall of the index"):
            store_use(folder, index_use(crew, answers, config.search.index))
    done()


def _require_searchable(config: RetrieveConfig, snapshot: Snapshot) -> None:
    """Raise MgvrError for what these features, or this configuration, can't give."""
    shape = shape_of(snapshot.schema())
    if config.certify is not None and snapshot.codec() is None:
        raise MgvrError(
            f"certify: {config.features} keeps no bounds of its videos; mgvr corpus recode makes a set that does "
            "(--codec.values fp16 changes no score)"
        )
    if config.certify is not None and not config.certify.top <= config.k <= config.certify.limit:
        raise MgvrError(
            f"certify: top {config.certify.top}, k {config.k} and limit {config.certify.limit} must not fall: the "
            "first places of a list of k are proven, by at most limit videos"
        )
    if config.search.index is not None:
        check_index(config.search.index, snapshot.rows, shape.dim)
    kinds = [correction.kind for correction in config.corrections]
    if config.bank is None and "qb_norm" in kinds:
        raise MgvrError("corrections: QB-Norm reads a bank of training captions: give one with --bank.uri")
    if config.bank is not None and not {"qb_norm", "sinkhorn"} & set(kinds):
        raise MgvrError("bank: only the corrections qb_norm and sinkhorn read one; name one of them, or leave it out")


def _texts_identity(config: RetrieveConfig, queries: Queries, checkpoint: Checkpoint) -> dict[str, Any]:
    """All that the texts' vectors depend on."""
    spec = checkpoint.model.spec
    compute = config.compute.resolved()
    return {
        "texts": hash_json(queries.texts),
        "model": model_fingerprint(checkpoint.model).digest,
        "text_length": spec.text_length,
        "tokenizer": hash_json(spec.tokenizer.model_dump(mode="json")),
        "compute": {"device": compute.device, "precision": compute.precision, "threads": compute.threads},
        "versions": computing_versions(),
    }


def _lists_identity(
    config: RetrieveConfig, queries: Queries, texts: Path, snapshot: Snapshot, reranker: Reranker
) -> dict[str, Any]:
    """All that finished lists depend on: a run of the same goes on from them, any other begins anew."""
    return {
        "texts": texts.name,
        **index_identity(snapshot),
        "queries": hash_json([queries.text_of.tolist(), queries.relevant]),
        "k": config.k,
        "certify": None if config.certify is None else config.certify.model_dump(),
        "index": None if config.search.index is None else config.search.index.model_dump(),
        "weights": reranker.weights.model_dump(),
        "frame_mixing": reranker.mixing is not None,
        "video_to_text": config.video_to_text,
        "block": config.search.queries_at_once,
        "device": config.compute.resolved().device,
    }


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
