"""From a similarity matrix or a run to the rows of a report: every way to rank, with its figures and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mgvr_core.evaluation import compatible, matrix
from mgvr_core.evaluation.bootstrap import intervals, paired_gains
from mgvr_core.evaluation.compatible import LABEL, Printed
from mgvr_core.evaluation.hubness import CorrectionConfig
from mgvr_core.evaluation.matrix import Matrix
from mgvr_core.evaluation.metrics import Positions, per_query, ranks, recall_at, summarise
from mgvr_core.evaluation.report import Ties
from mgvr_core.evaluation.significance import group_letters
from mgvr_core.evaluation.systems import System
from mgvr_core.evaluation.truth import Truth, positions_in_lists

Direction = Literal["text_to_video", "video_to_text"]

RAW = "raw"
"""The row of the scores as they were given, which gains are over."""
SINGLE_CAPTIONS = "raw, single captions"

_TRANSPOSED = "The same matrix read by columns, not a recall and rerank of its own."
_GROUPS = "Ranks groups of captions with the same right videos, a group by its best caption."
_SINGLE = "Ranks single captions, any of a video's own counting as right: not to be compared with groups of them."


@dataclass(frozen=True)
class Ranked:
    """One way to rank, before its figures are taken.

    asking: ids of the Q that ask. positions: of their right answers. items: what is ranked. corrected: by what, if by
    anything; its gain is then over the raw row of the same direction. clusters: (Q,) for the bootstrap, where several
    queries have the same right videos. printed: what the usual scripts make of it.
    """

    name: str
    direction: Direction
    asking: Sequence[str]
    positions: Positions
    items: str = "videos"
    corrected: CorrectionConfig | None = None
    transductive: bool = False
    clusters: Sequence[int] | None = None
    printed: Printed | None = None
    note: str = ""


def rank_run(lists: Mapping[str, Sequence[tuple[str, float]]], truth: Truth) -> list[Ranked]:
    """The one row of a run: see `positions_in_lists`."""
    return [Ranked("run", "text_to_video", truth.queries, positions_in_lists(lists, truth), clusters=_clusters(truth))]


def rank_matrix(
    scores: Matrix, truth: Truth, corrections: Sequence[CorrectionConfig], bank: Matrix | None
) -> list[Ranked]:
    """All rows of a matrix (T, V) of finite scores: both directions, raw and after each correction.

    bank: (B, V), what training captions have with the same videos. What reads a bank has no row in the other direction,
    where it would be one of training videos.
    """
    rows = [_texts(RAW, scores, truth)]
    for config in corrections:
        read = None if config.kind == "dual_softmax" else bank
        found, label = matrix.corrected(config, scores, read)
        rows.append(_as_corrected(_texts(label, found, truth), config, read))
    across = scores.T if len(truth.asking) == len(truth.videos) else scores.T[truth.asking]  # (A, T)
    rows.append(_videos(RAW, across, truth))
    for config in corrections:
        if config.kind == "dual_softmax" or (config.kind == "sinkhorn" and bank is None):
            found, label = matrix.corrected(config, across)
            rows.append(_as_corrected(_videos(label, found, truth), config, None))
    if truth.clustered:
        positions = matrix.video_to_text(across, truth, single_captions=True)
        note = f"{_SINGLE} {_TRANSPOSED}"
        rows.append(Ranked(SINGLE_CAPTIONS, "video_to_text", _asking(truth), positions, "single captions", note=note))
    return rows


def printed_of(scores: Matrix, truth: Truth) -> dict[Direction, Printed]:
    """What the usual scripts print for a matrix (T, V) that may hold NaN.

    They know one right video a query, and the other direction only where every video has a caption: what they could
    not print is left out.
    """
    if truth.only is None:
        return {}
    found: dict[Direction, Printed] = {"text_to_video": compatible.text_to_video(scores, truth.only)}
    if len(truth.asking) == len(truth.videos):
        found["video_to_text"] = compatible.video_to_text(scores.T, truth.only)
    return found


def systems_of(rows: Sequence[Ranked], samples: int, seed: int) -> list[System]:
    """The figures of all rows, with intervals, gains over the raw row, and letters of those not told apart."""
    letters = _letters(rows)
    return [_system(row, rows, letters, samples, seed) for row in rows]


def _system(
    row: Ranked, rows: Sequence[Ranked], letters: Mapping[tuple[Direction, str], str], samples: int, seed: int
) -> System:
    measures, metrics = per_query(row.positions), summarise(row.positions)
    gain = {}
    if row.corrected is not None:
        (raw,) = (other for other in rows if (other.direction, other.name) == (row.direction, RAW))
        gain = paired_gains(measures, per_query(raw.positions), samples=samples, seed=seed, groups=row.clusters)
    notes = [row.note]
    if row.printed is not None and row.printed.ranks != metrics.num_queries:
        notes.append(f"{LABEL.capitalize()}: {row.printed.ranks:,} ranks of {metrics.num_queries:,} queries.")
    return System(
        name=row.name,
        settings={
            "ranked": row.items,
            "correction": "none" if row.corrected is None else f"{row.corrected.kind}, {row.corrected.parameters}",
        },
        queries=metrics.num_queries,
        pool=metrics.pool,
        figures=intervals(measures, samples=samples, seed=seed, groups=row.clusters),
        direction=row.direction,
        gain=gain,
        groups=letters.get((row.direction, row.name), ""),
        compatible={} if row.printed is None else row.printed.values,
        transductive=row.transductive,
        ties=Ties(metrics.tied_queries, metrics.optimistic, metrics.pessimistic) if metrics.tied_queries else None,
        unanswerable=metrics.unanswerable,
        note=" ".join(note for note in notes if note),
    )


def _letters(rows: Sequence[Ranked]) -> dict[tuple[Direction, str], str]:
    """Of each row that has others of the same direction beside it which rank the same items.

    What has read the other queries is no rival of what has not, and gets none.
    """
    found: dict[tuple[Direction, str], str] = {}
    for row in rows:
        rivals = (other for other in rows if not other.transductive)
        alike = [other for other in rivals if (other.direction, other.items) == (row.direction, row.items)]
        if row.name == RAW and len(alike) > 1:
            hits = {other.name: recall_at(ranks(other.positions), 1) for other in alike}
            for name, letters in group_letters(hits, row.clusters).items():
                found[row.direction, name] = letters
    return found


def _texts(name: str, scores: Matrix, truth: Truth) -> Ranked:
    printed = None if truth.only is None else compatible.text_to_video(scores, truth.only)
    positions = matrix.text_to_video(scores, truth)
    return Ranked(name, "text_to_video", truth.queries, positions, clusters=_clusters(truth), printed=printed)


def _videos(name: str, scores: Matrix, truth: Truth) -> Ranked:
    """The other direction from (A, T)."""
    printed = None
    if truth.only is not None and len(truth.asking) == len(truth.videos):
        printed = compatible.video_to_text(scores, truth.only)
    return Ranked(
        name,
        "video_to_text",
        _asking(truth),
        matrix.video_to_text(scores, truth),
        items="groups of captions" if truth.clustered else "captions",
        printed=printed,
        note=f"{_GROUPS} {_TRANSPOSED}" if truth.clustered else _TRANSPOSED,
    )


def _as_corrected(row: Ranked, config: CorrectionConfig, bank: Matrix | None) -> Ranked:
    return replace(row, corrected=config, transductive=bank is None)


def _asking(truth: Truth) -> list[str]:
    return [truth.videos[column] for column in truth.asking]


def _clusters(truth: Truth) -> list[int] | None:
    clusters: list[int] = truth.groups.tolist()
    return clusters if truth.clustered else None
