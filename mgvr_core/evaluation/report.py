"""The retrieval report as a typed document: what `report.json` holds and the two pages are made of.

`report.json` has the keys of the dataclasses below, for instance
`metrics.text_to_video.coarse["R@1"].value` beside `metrics.text_to_video.two_stage["R@1"].value`. Rates and gains are
fractions from 0 to 1 (the pages show percents); seconds, ranks and multiply-adds are plain numbers. No value is NaN or
infinite: what was not measured is null or an empty mapping. Keys are only ever added under one `schema` number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from mgvr_core.evaluation.bootstrap import Gain, Interval
from mgvr_core.evaluation.pages import from_json, to_json

SCHEMA = 1

DirectionKey = Literal["text_to_video", "video_to_text"]
ExampleKind = Literal["win", "loss", "both_right", "missed", "worst", "search"]


@dataclass(frozen=True)
class Manifest:
    """What was run, with everything that is needed to run it again."""

    command: str
    configuration: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    versions: Mapping[str, str]
    hardware: Mapping[str, str]
    seed: int | None = None


@dataclass(frozen=True)
class Captions:
    """How well the model could read the queries.

    too_long: queries with more tokens than `text_length`, so that their end was not read. unknown_words of `words`
    are not in the tokenizer's vocabulary; both None where the vocabulary is open (CLIP's byte pairs).
    """

    total: int
    text_length: int
    too_long: int
    words: int | None = None
    unknown_words: int | None = None


@dataclass(frozen=True)
class Ties:
    """Queries whose right answer ties with a wrong one, and R@K with every tie broken for or against it."""

    queries: int
    optimistic: Mapping[str, float]
    pessimistic: Mapping[str, float]


@dataclass(frozen=True)
class Curve:
    """R@K over K, one value for each entry of `k`."""

    k: tuple[int, ...]
    coarse: tuple[float, ...]
    two_stage: tuple[float, ...]


@dataclass(frozen=True)
class Movement:
    """Where the rerank moved the queries: `counts[i][j]` queries went from rank band i (coarse) to j (two-stage).

    bands: labels from the top ("1", "2–5", …); the last one holds what lies below the reranked candidates, and
    unanswerable queries.
    """

    bands: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Direction:
    """One direction of retrieval, coarse and two-stage side by side.

    coarse, two_stage: R@1, R@5, R@10, MdR, MnR, MRR, nDCG@10 with their intervals.
    gain: two-stage minus coarse over the same queries, for every metric but MdR (a lower MnR is
    better).
    recall_at_k: share of queries with a right answer among the k candidates of stage 1, the most that R@1 can become.
    searched: items that stage 1 searched; the pool, or single captions where groups of them are ranked.
    ties: keys "coarse" and "two_stage", only where there are ties. scores: each single score of stage 2, and their
    fusion, as the rerank of the same candidates. corrected: the final list after a correction of hubness, whose label
    says what it has read. certified: the final list may hold items that stage 1 did not recall. level, resamples,
    interval_unit: of the bootstrap; "group" means all queries of a video drawn together. note: the protocol, where one
    must know it.
    """

    queries: int
    pool: int
    unanswerable: int
    k: int
    searched: int
    coarse: Mapping[str, Interval]
    two_stage: Mapping[str, Interval]
    gain: Mapping[str, Gain]
    recall_at_k: Interval
    curve: Curve
    movement: Movement
    ties: Mapping[str, Ties] = field(default_factory=dict)
    scores: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    corrected: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    certified: bool = False
    level: float = 0.95
    resamples: int = 2000
    interval_unit: Literal["query", "group"] = "query"
    note: str = ""


@dataclass(frozen=True)
class Directions:
    """Both directions of retrieval; video_to_text is a recall and rerank of its own, not a transposed matrix."""

    text_to_video: Direction
    video_to_text: Direction | None = None


@dataclass(frozen=True)
class StageTime:
    """Wall-clock seconds of one stage of the run."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Macs:
    """Multiply-adds a query of scoring alone (no encoding); exhaustive: every pair scored with the fine scores."""

    coarse: int
    two_stage: int
    exhaustive: int


@dataclass(frozen=True)
class Stored:
    """What is stored of a video, in bytes: its coarse vector, and what the rerank reads; and how that is coded."""

    coarse: int
    fine: int
    code: str


@dataclass(frozen=True)
class IndexUse:
    """An approximate index of stage 1, and the mean share of the exact k best that it finds for a sample of texts."""

    factory: str
    search: str
    recall_at_k: float
    k: int
    sample: int


@dataclass(frozen=True)
class CertificateUse:
    """For how many texts the first `top` of the list are proven to be those of exhaustive fused search.

    mean_k, max_k: videos that the rerank scored for a text.
    """

    top: int
    texts: int
    certified: int
    mean_k: float
    max_k: int


@dataclass(frozen=True)
class Hit:
    """One video of a result list. rank: its place in the final list; coarse_rank: its place after stage 1, if any."""

    video: str
    rank: int
    coarse_rank: int | None
    right: bool | None = None
    label: str = ""


@dataclass(frozen=True)
class Example:
    """A query and the top of its final list.

    hits: the top 5; where a right answer exists and is not among them, the best one follows as a last hit, from
    beyond the candidates too.
    kind: "search" where no right answer is known; else see `picks.pick_examples`.
    """

    kind: ExampleKind
    query: str
    text: str
    hits: tuple[Hit, ...]
    coarse_rank: float | None = None
    two_stage_rank: float | None = None


@dataclass(frozen=True)
class HubVideo:
    """A video that comes first for many more queries than it is right for (see `hubs`)."""

    video: str
    first: int
    right: int
    label: str = ""


@dataclass(frozen=True)
class Report:
    """A retrieval run. Without right answers `metrics` is None: a plain search, whose page has results alone.

    created: ISO 8601 with the offset. summary: one or two sentences below the title. queries, pool: of the run.
    unlabelled_queries: answered but not measured, because no right answer was given. files: name relative to the
    report -> what it holds. thumbnails: video -> data: URI of a JPEG (see `thumbnails.data_uri`).
    protocol: name -> value, as shown: what a reader must know before these figures are set beside others.
    """

    title: str
    created: str
    queries: int
    pool: int
    captions: Captions
    manifest: Manifest
    summary: str = ""
    unlabelled_queries: int = 0
    metrics: Directions | None = None
    stages: tuple[StageTime, ...] = ()
    macs_per_query: Macs | None = None
    stored: Stored | None = None
    index: IndexUse | None = None
    certificate: CertificateUse | None = None
    warnings: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    examples_note: str = ""
    thumbnails: Mapping[str, str] = field(default_factory=dict)
    protocol: Mapping[str, str] = field(default_factory=dict)
    hubs: tuple[HubVideo, ...] = ()
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The document as JSON text. Raises MgvrError where a number is NaN or infinite, naming its key."""
        return to_json(asdict(self), "report")

    @staticmethod
    def from_json(text: str) -> Report:
        """The report of a `report.json`'s text. Raises MgvrError where it isn't one, or is of a newer schema."""
        return from_json(text, _ADAPTER, "a retrieval report", SCHEMA)


_ADAPTER = TypeAdapter(Report)
