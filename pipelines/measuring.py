"""From answers to the report: metrics of both directions, cost, protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from mgvr_core.config import LocalPath, Section
from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.comparison import compare
from mgvr_core.evaluation.hubness import CorrectionConfig
from mgvr_core.evaluation.metrics import Positions, concatenate, positions_from_scores
from mgvr_core.evaluation.report import (
    Captions,
    CertificateUse,
    Direction,
    Directions,
    Example,
    HubVideo,
    IndexUse,
    Macs,
    Manifest,
    Report,
    StageTime,
    Stored,
)
from mgvr_core.features.layout import coding_of, describe
from mgvr_core.features.schema import evidence_bytes, shape_of
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.model.checkpoint import Checkpoint
from mgvr_core.retrieval.coarse import Candidates
from mgvr_core.retrieval.two_stage import Ranking, coarse_ranking, reranked, whole_scores
from mgvr_core.scoring.fusion import FusionWeights, multiply_adds
from mgvr_core.scoring.video import multiply_adds as coarse_multiply_adds
from pipelines.answering import CertifyConfig
from pipelines.answers import Answers, Queries
from pipelines.environment import command_line, hardware, versions
from pipelines.models import model_fingerprint
from pipelines.runtime import Stopwatch
from pipelines.showing import hub_videos, labelled_examples, search_examples, thumbnails

_BLOCK_VALUES = 1 << 24
"""Scores of the video-to-text direction held at once."""
_UNKNOWN = 0.05
"""Share of words unknown to the model from which a reader is warned."""
_MEASURED = {
    "qrels.trec": "the right answers as TREC qrels",
    "report.csv": "every figure with its interval",
    "report.tex": "the metric tables for LaTeX (booktabs)",
}
"""Files of a run with right answers."""


class ReportConfig(Section):
    """What the report shows."""

    title: str | None = Field(None, description="title of the page; none: made of the feature set's name")
    bootstrap: int = Field(2000, gt=0, description="resamples of the confidence intervals")
    seed: int = Field(0, description="seed of the resamples and of the choice of examples")
    examples: int = Field(3, ge=0, description="example queries of each kind (win, loss, both right, missed, worst)")
    dataset: LocalPath | None = Field(
        None, description="dataset.json of mgvr dataset, whose protocol the report shows beside the figures"
    )

    def protocol(self) -> dict[str, str]:
        """The rows of that protocol, or none. Raises MgvrError where the file is not one of mgvr dataset."""
        return self._benchmark()[0]

    def foreign(self, queries: int, pool: int, tokens: set[int], frames: set[int]) -> list[str]:
        """In what a run is not what its benchmark's protocol says, for a reader of the figures."""
        rows, counts = self._benchmark()
        if not rows:
            return []
        pairs: dict[str, tuple[set[int], set[int]]] = {
            "queries": ({counts["queries"]}, {queries}),
            "videos in the pool": ({counts["videos"]}, {pool}),
            "text tokens": ({int(rows["text tokens"])}, tokens),
            "frames": ({int(rows["frames"])}, frames),
        }
        differ = [
            f"{name}: {_listed(here)} here, {_listed(there)} there"
            for name, (there, here) in pairs.items()
            if here != there
        ]
        if not differ:
            return []
        return [f"This is not {rows['benchmark']} by its protocol: {'; '.join(differ)}. Figures can't be compared."]

    def _benchmark(self) -> tuple[dict[str, str], dict[str, int]]:
        if self.dataset is None:
            return {}, {}
        try:
            about = json.loads(Path(self.dataset).read_text(encoding="utf-8"))
            rows, counts = dict(about["protocol"]), dict(about["counts"]["test"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MgvrError(
                f"report.dataset: {self.dataset} is no dataset.json as mgvr dataset writes it ({error})"
            ) from None
        return rows, counts


@dataclass(frozen=True)
class Found:
    """What a run has found, and how."""

    answers: Answers
    index: IndexUse | None
    corrections: Sequence[CorrectionConfig]
    certify: CertifyConfig | None


def build_report(
    config: ReportConfig,
    configuration: dict[str, Any],
    found: Found,
    checkpoint: Checkpoint,
    snapshot: Snapshot,
    weights: FusionWeights,
    watch: Stopwatch,
) -> Report:
    """Put the report together; without any right answer it is a plain search without metrics."""
    answers = found.answers
    queries = answers.queries
    metrics = None
    examples: list[Example] = []
    near: tuple[HubVideo, ...] = ()
    with watch.stage("measure"):
        if queries.labelled.any():
            coarse, final = answers.positions("coarse"), answers.positions("fused")
            metrics = Directions(
                text_to_video=_text_to_video(config, found, coarse, final, weights),
                video_to_text=_video_to_text(config, answers) if answers.videos.total else None,
            )
            examples = labelled_examples(config.examples, config.seed, answers, coarse, final)
            near = tuple(hub_videos(answers))
        else:
            examples = search_examples(config.examples, config.seed, answers)
    captions = _captions(answers, checkpoint)
    k = answers.k
    N, shape = len(answers.pool), shape_of(snapshot.schema())
    fused = multiply_adds(weights, shape.frames, shape.patches, shape.dim)
    scored = k if found.certify is None else float(answers.lists["scored"].mean())
    coarse_macs = N * coarse_multiply_adds(shape.dim)
    return Report(
        title=config.title or f"Text-to-video retrieval over {snapshot.name}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        queries=len(queries.ids),
        pool=N,
        captions=captions,
        manifest=_manifest(config.seed, configuration, checkpoint, snapshot),
        unlabelled_queries=int((~queries.labelled).sum()) if metrics is not None else 0,
        metrics=metrics,
        stages=tuple(StageTime(name, seconds) for name, seconds in watch.seconds.items()),
        stored=_stored(snapshot),
        index=found.index,
        certificate=None if found.certify is None else _certificate(answers, found.certify),
        # What an approximate index multiplies, nobody counts.
        macs_per_query=Macs(coarse=coarse_macs, two_stage=coarse_macs + round(scored * fused), exhaustive=N * fused)
        if found.index is None
        else None,
        warnings=(
            *config.foreign(int(queries.labelled.sum()), N, {captions.text_length}, {shape.frames}),
            *_warnings(snapshot, checkpoint, captions, queries),
        ),
        files={
            "results.parquet": "the answers of every query, best first, with both stages' scores and ranks",
            "run.trec": "every query's reranked candidates, and no more, as a TREC run",
            **(_MEASURED if metrics is not None else {}),
            "report.json": "this report as data",
        },
        examples=tuple(examples),
        thumbnails=thumbnails(examples, near, answers, snapshot),
        protocol={**config.protocol(), **_protocol(answers, checkpoint, shape.frames)} if metrics is not None else {},
        hubs=near,
    )


def _text_to_video(
    config: ReportConfig, found: Found, coarse: Positions, final: Positions, weights: FusionWeights
) -> Direction:
    answers = found.answers
    corrected = {}
    for correction in found.corrections:
        positions, label = answers.corrected(correction)
        corrected[label] = positions
    single = {name: answers.positions(name) for name in weights.active}
    labelled = [ids for ids in answers.queries.relevant if ids]
    groups = ["\0".join(sorted(ids)) for ids in labelled]
    return compare(
        coarse,
        final,
        answers.k,
        scores={**single, "fused": final},
        corrected=corrected,
        certified=found.certify is not None,
        groups=groups if len(set(groups)) < len(groups) else None,
        samples=config.bootstrap,
        seed=config.seed,
        note="A query counts as answered at K if any of its right videos is among the first K.",
    )


def _video_to_text(config: ReportConfig, answers: Answers) -> Direction:
    """The other direction: videos with known captions ask, and groups of captions with one right answer are ranked.

    A group stands where its best caption stands (docs/method.md, section 6): ranking single captions gives other
    figures.
    """
    groups: dict[frozenset[str], int] = {}
    member: list[tuple[int, int]] = []  # (text row, group)
    for text, ids in zip(answers.queries.text_of, answers.queries.relevant, strict=True):
        if ids:
            member.append((int(text), groups.setdefault(frozenset(ids), len(groups))))
    text, group = np.array(sorted(set(member), key=lambda pair: pair[1])).T
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    right: dict[str, list[int]] = {}
    for members, number in groups.items():
        for name in members:
            right.setdefault(name, []).append(number)
    asked, videos = answers.asking_videos, answers.videos
    found = Candidates(videos["index"], videos["coarse"])
    final = reranked(found, videos["fused"])
    relevant = [right[name] for name in answers.pool.names(asked)]
    of_text: dict[int, set[int]] = {}
    for row, number in zip(text.tolist(), group.tolist(), strict=True):
        of_text.setdefault(row, set()).add(number)
    recalled = np.array(
        [
            any(of_text.get(int(row), set()) & set(groups_of) for row in rows)
            for rows, groups_of in zip(found.index, relevant, strict=True)
        ],
        float,
    )
    block = max(1, _BLOCK_VALUES // len(answers.queries.texts))
    projected = answers.projected()
    positions: dict[str, list[Positions]] = {"coarse": [], "two_stage": []}
    for begin in range(0, len(asked), block):
        rows = slice(begin, begin + block)
        for name, ranking in (("coarse", coarse_ranking(found)), ("two_stage", final)):
            part = Ranking(ranking.index[rows], ranking.score[rows], ranking.coarse_rank[rows])
            scores = whole_scores(part, videos["vector"][rows], projected)  # (B, T)
            grouped = np.maximum.reduceat(scores[:, text], starts, axis=1)  # (B, G)
            positions[name].append(positions_from_scores(grouped, relevant[rows]))
    return compare(
        concatenate(positions["coarse"]),
        concatenate(positions["two_stage"]),
        found.index.shape[1],
        recalled=recalled,
        searched=len(answers.captions),
        samples=config.bootstrap,
        seed=config.seed,
        note="A recall and a rerank of its own. The pool is groups of captions with the same right answers; "
        "a group stands where its best caption stands.",
    )


def _protocol(answers: Answers, checkpoint: Checkpoint, frames: int) -> dict[str, str]:
    """What these figures depend on, besides the model and the sizes of queries and pool."""
    queries = answers.queries
    right = [len(set(ids)) for ids in queries.relevant if ids]
    captions = np.bincount(answers.truth.video, minlength=len(answers.pool))
    asked = int((captions > 0).sum())
    return {
        "Right videos a query": _range(right),
        "Captions a video, of those that are a right answer": _range(captions[captions > 0].tolist()),
        "Videos that are no query's right answer": f"{len(answers.pool) - asked:,} of {len(answers.pool):,}",
        "Frames of a video": str(frames),
        "Tokens read of a caption": str(checkpoint.model.spec.text_length),
        "Candidates reranked": f"{answers.k:,}",
        "Tied answers": "a right one stands in the middle of those it ties with",
        "Right answers that are not in the pool": "a miss" if answers.truth.missing.any() else "none",
    }


def _range(numbers: list[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low}–{high}"


def _listed(numbers: set[Any]) -> str:
    return ", ".join(f"{number:,}" for number in sorted(numbers))


def _stored(snapshot: Snapshot) -> Stored:
    coarse, fine = evidence_bytes(snapshot.schema())
    return Stored(coarse, fine, f"codec: {describe(coding_of(snapshot.fingerprint))}")


def _certificate(answers: Answers, config: CertifyConfig) -> CertificateUse:
    certified, scored = answers.lists["certified"], answers.lists["scored"]
    return CertificateUse(
        top=min(config.top, answers.k),
        texts=len(scored),
        certified=int(certified.sum()),
        mean_k=float(scored.mean()),
        max_k=int(scored.max()),
    )


def _captions(answers: Answers, checkpoint: Checkpoint) -> Captions:
    of, texts = answers.queries.text_of, answers.texts
    closed = checkpoint.model.spec.tokenizer.kind == "words"
    return Captions(
        total=len(of),
        text_length=checkpoint.model.spec.text_length,
        too_long=int(texts["truncated"][of].sum()),
        words=int(texts["words"][of].sum()) if closed else None,
        unknown_words=int(texts["unknown"][of].sum()) if closed else None,
    )


def _manifest(seed: int, configuration: dict[str, Any], checkpoint: Checkpoint, snapshot: Snapshot) -> Manifest:
    return Manifest(
        command=command_line(),
        configuration=configuration,
        fingerprints={
            "features": snapshot.fingerprint.digest,
            "model": model_fingerprint(checkpoint.model).digest,
            "feature set": f"snapshot {snapshot.number} of {snapshot.created}",
            **{f"features: {name}": str(value) for name, value in snapshot.fingerprint.parts.items()},
        },
        versions=versions(),
        hardware=hardware(),
        seed=seed,
    )


def _warnings(snapshot: Snapshot, checkpoint: Checkpoint, captions: Captions, queries: Queries) -> list[str]:
    warnings = [*checkpoint.notes, *(f"the model: {warning}" for warning in checkpoint.about.get("warnings", ()))]
    if captions.too_long:
        warnings.append(
            f"{captions.too_long} of {captions.total} queries are longer than the {captions.text_length} tokens that "
            "the model reads: their end was not read."
        )
    if captions.words and captions.unknown_words and captions.unknown_words > _UNKNOWN * captions.words:
        share = captions.unknown_words / captions.words
        warnings.append(
            f"The model's vocabulary lacks {100 * share:.0f} % of the queries' words: it was trained on others."
        )
    shared = len(set(queries.bank.tolist()) & set(queries.text_of.tolist()))
    if shared:
        warnings.append(
            f"{shared} texts of the bank are queries too: a correction that reads them has seen what it is measured on."
        )
    failed = snapshot.failed().num_rows
    if failed:
        warnings.append(
            f"{failed} of {failed + snapshot.rows} listed videos are not in the pool: they could not be encoded, "
            "or have the content of another (see the feature set's failures)."
        )
    return warnings
