"""How figures and findings read: shared by the Markdown and the HTML page, so that they never disagree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from mgvr_core.evaluation.bootstrap import Gain, Interval
from mgvr_core.evaluation.report import (
    Direction,
    DirectionKey,
    Directions,
    ExampleKind,
    Hit,
    Macs,
    Report,
    StageTime,
    Ties,
)

TITLES = {"text_to_video": "Text to video", "video_to_text": "Video to text"}
_SOUGHT = {"text_to_video": "video", "video_to_text": "text"}

HUBS = (
    "Videos that come first for more than twice as many queries as they are right for: they are near to every text. "
    "A correction of hubness lowers them."
)

EXAMPLE_TITLES: dict[ExampleKind, tuple[str, str]] = {
    "win": ("Won by the rerank", "The right video came first only after stage 2."),
    "loss": ("Lost by the rerank", "The right video came first before stage 2, and no longer after it."),
    "both_right": ("Right both times", "The right video came first before and after stage 2."),
    "missed": ("Missed by stage 1", "The right video is not among the candidates, so no rerank can find it."),
    "worst": ("The worst", "Of all queries, those whose right video stands lowest in the final list."),
    "search": ("Results", "The first videos of each final list."),
}


class Resampled(Protocol):
    """Whatever says how its intervals were made."""

    @property
    def level(self) -> float:
        """Of the intervals, 0 to 1."""

    @property
    def resamples(self) -> int:
        """How many were drawn."""

    @property
    def interval_unit(self) -> Literal["query", "group"]:
        """What was drawn: single queries, or all those of a video together."""


@dataclass(frozen=True)
class Cell:
    """A figure and its interval as they are printed; the interval is empty where there is none."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """One metric of a direction: coarse, two-stage and their paired difference.

    tone: "good" or "bad" where the interval of the difference excludes 0, else empty.
    """

    name: str
    coarse: Cell
    two_stage: Cell
    gain: Cell
    tone: str


def percent(share: float) -> str:
    """0.4312 -> 43.1."""
    return f"{100 * share:.1f}"


def moment(created: str) -> str:
    """2025-11-21T10:12:00+00:00 -> 21 November 2025, 10:12 UTC."""
    when = datetime.fromisoformat(created)
    return f"{when.day} {when:%B %Y, %H:%M} {when.tzname() or ''}".rstrip()


def count(number: int) -> str:
    """12345 -> 12,345."""
    return f"{number:,}"


def figure(name: str, value: float, sign: str = "") -> str:
    """A metric in the field's habit: R@K in percent, ranks with one decimal, MRR and nDCG with three."""
    if name.startswith("R@"):
        text = f"{100 * value:{sign}.1f}"
    else:
        text = f"{value:{sign},.1f}" if name in ("MdR", "MnR") else f"{value:{sign}.3f}"
    return text.replace("-", "−")


def cell(name: str, interval: Interval) -> Cell:
    """A metric with its interval."""
    return Cell(figure(name, interval.value), f"{figure(name, interval.low)}–{figure(name, interval.high)}")


def rows(direction: Direction) -> list[Row]:
    """The headline table of a direction."""
    return [_row(name, direction) for name in direction.coarse]


def _row(name: str, direction: Direction) -> Row:
    coarse, two_stage = cell(name, direction.coarse[name]), cell(name, direction.two_stage[name])
    if name not in direction.gain:
        return Row(name, coarse, two_stage, Cell("–"), "")
    gain = direction.gain[name]
    return Row(name, coarse, two_stage, gain_cell(name, gain), tone(name, gain))


def tone(name: str, gain: Gain) -> str:
    """Whether a difference is good or bad news, or (empty) neither; a lower rank is better."""
    if not gain.excludes_zero:
        return ""
    return "good" if (gain.value > 0) != (name == "MnR") else "bad"


def gain_cell(name: str, gain: Gain) -> Cell:
    """A paired gain with its interval, signs included."""
    low, high = figure(name, gain.low, "+"), figure(name, gain.high, "+")
    return Cell(figure(name, gain.value, "+"), f"{low} to {high}")


def verdict(name: str, direction: Direction) -> str:
    """What the paired gain of R@1 means, in words."""
    gain = direction.gain["R@1"]
    level = f"{100 * direction.level:g} %"
    sentence = (
        f"The two-stage search puts a right {_SOUGHT[name]} first for {percent(direction.two_stage['R@1'].value)} % of "
        f"the queries, the coarse search for {percent(direction.coarse['R@1'].value)} %. On the same queries that is a "
        f"{'loss' if gain.value < 0 else 'gain'} of {percent(abs(gain.value))} points ({level} interval "
        f"{figure('R@1', gain.low, '+')} to {figure('R@1', gain.high, '+')})"
    )
    if gain.excludes_zero:
        return f"{sentence}. The interval excludes 0: another sample of queries would hardly turn the comparison round."
    return f"{sentence}. The interval includes 0: this set of queries cannot tell the two apart."


def ceiling(name: str, direction: Direction) -> str:
    """What stage 1 lets through."""
    return (
        f"Stage 1 hands {count(direction.k)} of {count(direction.searched)} {_SOUGHT[name]}s on, and a right one is "
        f"among them for {percent(direction.recall_at_k.value)} % of the queries "
        f"({percent(direction.recall_at_k.low)}–{percent(direction.recall_at_k.high)}). "
        + ("Only the certificate can bring the others in." if direction.certified else "No rerank can find the others.")
    )


def intervals_note(measured: Resampled) -> str:
    """How the intervals were made."""
    unit = "queries" if measured.interval_unit == "query" else "videos, the queries of one drawn together"
    level = f"{100 * measured.level:g} %"
    return f"Ranges are {level} bootstrap intervals ({count(measured.resamples)} resamples of {unit})."


def heat(number: int, direction: Direction) -> int:
    """Shade of a cell of the movement table, 0 to 60; the root lifts the small counts that matter most."""
    return round(60 * math.sqrt(number / direction.queries))


def ties_notes(direction: Direction) -> Iterator[str]:
    """The bounds of R@K where ties leave them open, of either stage."""
    for system, ties in direction.ties.items():
        if said := ties_note(ties):
            yield f"{system.replace('_', '-').capitalize()}: {said}"


def ties_note(ties: Ties) -> str:
    """The bounds of R@K that differ as they are printed; empty where none does."""
    bounds = ", ".join(
        f"{name} {low} to {high}"
        for name in ties.pessimistic
        if (low := percent(ties.pessimistic[name])) != (high := percent(ties.optimistic[name]))
    )
    if not bounds:
        return ""
    return (
        f"right and wrong answers tie for {count(ties.queries)} of the queries; with every tie broken against or for "
        f"the right one: {bounds}."
    )


def directions(metrics: Directions) -> list[tuple[DirectionKey, str, Direction]]:
    """(key, title, direction) of those that were measured."""
    found: list[tuple[DirectionKey, Direction | None]] = [
        ("text_to_video", metrics.text_to_video),
        ("video_to_text", metrics.video_to_text),
    ]
    return [(key, TITLES[key], direction) for key, direction in found if direction]


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """(label, value) lines about the queries and the pool."""
    yield "Videos in the pool", count(report.pool)
    yield "Queries", count(report.queries)
    if report.metrics:
        if report.unlabelled_queries:
            yield "Queries without a known right answer (not measured)", count(report.unlabelled_queries)
        for _, title, direction in directions(report.metrics):
            lost = direction.unanswerable
            share = f" ({percent(lost / direction.queries)} %), counted as misses" if lost else ""
            yield f"Unanswerable, {title.lower()}", f"{count(lost)} of {count(direction.queries)}{share}"
    captions = report.captions
    yield (
        f"Captions longer than the {captions.text_length} tokens that the model reads",
        _part(captions.too_long, captions.total),
    )
    if captions.words is not None and captions.unknown_words is not None:
        yield "Words outside the tokenizer's vocabulary", _part(captions.unknown_words, captions.words)


def search_facts(report: Report) -> Iterator[tuple[str, str]]:
    """(label, value) lines about what was searched, and how."""
    if stored := report.stored:
        parts = f"{size(stored.coarse)} coarse, {size(stored.fine)} for the rerank"
        yield "Stored a video", f"{size(stored.coarse + stored.fine)}: {parts} ({stored.code})"
    if index := report.index:
        tuned = f", {index.search}" if index.search else ""
        found = f"finds {percent(index.recall_at_k)} % of the exact {count(index.k)} best"
        yield "Stage 1 by an approximate index", f"{index.factory}{tuned}: {found} ({count(index.sample)} texts)"
    if proof := report.certificate:
        yield f"First {proof.top} proven to be those of exhaustive search", _part(proof.certified, proof.texts)
        yield "Videos reranked for a text", f"{proof.mean_k:,.1f} on average, {count(proof.max_k)} at most"


def size(value: float) -> str:
    """Bytes as people write them: 12 B, 5.9 KiB, 2.3 MiB."""
    for unit, bytes_ in (("MiB", 2**20), ("KiB", 2**10)):
        if value >= bytes_:
            return f"{value / bytes_:,.1f} {unit}"
    return f"{value:.0f} B"


def _part(part: int, whole: int) -> str:
    return f"{count(part)} of {count(whole)} ({percent(part / whole if whole else 0)} %)"


def stage_rows(stages: Sequence[StageTime]) -> list[tuple[str, str, float]]:
    """(stage, seconds as text, share of the total)."""
    total = sum(stage.seconds for stage in stages)
    return [(stage.name, seconds(stage.seconds), stage.seconds / total if total else 0.0) for stage in stages]


def seconds(value: float) -> str:
    """0.042 -> 42 ms, 3.21 -> 3.2 s, 75 -> 1 min 15 s."""
    if value < 0.9995:
        return f"{1000 * value:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


def macs_rows(macs: Macs) -> list[tuple[str, str, str]]:
    """(system, multiply-adds a query, times the two-stage search)."""
    return [
        (name, quantity(value), f"{ratio:,.0f}×" if (ratio := value / macs.two_stage) >= 100 else f"{ratio:.3g}×")
        for name, value in (
            ("Coarse alone", macs.coarse),
            ("Two-stage", macs.two_stage),
            ("Exhaustive fine-grained", macs.exhaustive),
        )
    ]


def quantity(value: float) -> str:
    """16320000 -> 16.3 M."""
    rounded = float(f"{value:.3g}")
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if rounded >= size:
            return f"{rounded / size:g} {unit}"
    return f"{rounded:g}"


def rank_text(rank: float) -> str:
    """A rank as people write it: 1, 12, 7.5."""
    return f"{rank:,.1f}".removesuffix(".0")


def moved(hit: Hit) -> str:
    """Where stage 1 had a video of the final list."""
    if hit.coarse_rank is None:
        return "not recalled by stage 1"
    return "unmoved" if hit.rank == hit.coarse_rank else f"was {count(hit.coarse_rank)}"
