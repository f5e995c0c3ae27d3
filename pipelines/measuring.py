"""From answers to the report: metrics of both directions, cost, examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

import numpy as np
from pydantic import Field

from mgvr_core.config import Section
from mgvr_core.evaluation.comparison import compare
from mgvr_core.evaluation.hubness import CorrectionConfig
from mgvr_core.evaluation.metrics import Positions, concatenate, positions_from_scores, ranks
from mgvr_core.evaluation.picks import pick_examples
from mgvr_core.evaluation.report import (
    Captions,
    CertificateUse,
    Direction,
    Directions,
    Example,
    Hit,
    IndexUse,
    Macs,
    Manifest,
    Report,
    StageTime,
    Stored,
)
from mgvr_core.evaluation.thumbnails import data_uri
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

_BLOCK_VALUES = 1 << 24
"""Scores of the video-to-text direction held at once."""
_UNKNOWN = 0.05
"""Share of words unknown to the model from which a reader is warned."""
_TOP = 5
"""Results that an example shows."""


class ReportConfig(Section):
    """What the report shows."""

    title: str | None = Field(None, description="title of the page; none: made of the feature set's name")
    bootstrap: int = Field(2000, gt=0, description="resamples of the confidence intervals")
    seed: int = Field(0, description="seed of the resamples and of the choice of examples")
    examples: int = Field(3, ge=0, description="example queries of each kind (win, loss, both right, missed)")


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
    with watch.stage("measure"):
        if queries.labelled.any():
            coarse, final = answers.positions("coarse"), answers.positions("fused")
            metrics = Directions(
                text_to_video=_text_to_video(config, found, coarse, final, weights),
                video_to_text=_video_to_text(config, answers) if answers.videos.total else None,
            )
            examples = _labelled_examples(config, answers, coarse, final)
        else:
            examples = [_example(answers, int(row), "search") for row in _some(len(queries.ids), config)]
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
        warnings=tuple(_warnings(snapshot, checkpoint, captions, queries)),
        files={
            "results.parquet": "the answers of every query, best first, with both stages' scores and ranks",
            "run.trec": "every query's reranked candidates, and no more, as a TREC run",
            **({"qrels.trec": "the right answers as TREC qrels"} if metrics is not None else {}),
            "report.json": "this report as data",
        },
        examples=tuple(examples),
        thumbnails=_thumbnails(examples, answers, snapshot),
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


def _labelled_examples(config: ReportConfig, answers: Answers, coarse: Positions, final: Positions) -> list[Example]:
    labelled = np.flatnonzero(answers.queries.labelled)
    before, after = ranks(coarse), ranks(final)
    picked = pick_examples(before, after, answers.k, each=config.examples, seed=config.seed)
    return [
        _example(answers, int(labelled[row]), kind, float(before.mid[row]), float(after.mid[row]))
        for row, kind in picked
    ]


def _example(
    answers: Answers, query: int, kind: Any, coarse_rank: float | None = None, rank: float | None = None
) -> Example:
    queries = answers.queries
    text = int(queries.text_of[query])
    ranking = answers.ranking("fused", [text])
    right = set(queries.relevant[query])
    ids = answers.pool.names(ranking.index[0])
    shown = list(range(min(_TOP, len(ids))))
    if right and not right & {ids[place] for place in shown}:
        shown += [place for place, name in enumerate(ids) if name in right][:1]
    hits = [
        Hit(
            video=ids[place],
            rank=place + 1,
            coarse_rank=int(ranking.coarse_rank[0, place]) or None,
            right=ids[place] in right if right else None,
            label=PurePath(answers.pool.uris[int(ranking.index[0, place])].as_py()).name,
        )
        for place in shown
    ]
    return Example(kind, queries.ids[query], queries.texts[text], tuple(hits), coarse_rank, rank)


def _some(total: int, config: ReportConfig) -> list[int]:
    """Queries of a plain search that the page shows: as many as four kinds of examples would be."""
    generator = np.random.default_rng(config.seed)
    chosen = generator.choice(total, size=min(total, 4 * config.examples), replace=False)
    return sorted(chosen.tolist())


def _thumbnails(examples: list[Example], answers: Answers, snapshot: Snapshot) -> dict[str, str]:
    """The stored thumbnails of the videos that the examples show, as data: URIs."""
    pool = answers.pool
    shown = sorted({hit.video for example in examples for hit in example.hits})
    rows = pool.places(shown)
    found: dict[str, str] = {}
    for shard, mine in pool.by_shard(rows):
        pictures = snapshot.read_shard(snapshot.shards[shard], ["thumbnail"])["thumbnail"]
        for place in mine.tolist():
            if picture := pictures[int(pool.row[rows[place]])].as_py():
                found[shown[place]] = data_uri(picture)
    return found
