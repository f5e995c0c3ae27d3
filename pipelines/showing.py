"""What a report shows of single queries and videos: examples, hub videos, thumbnails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

import numpy as np

from mgvr_core.evaluation.hubs import hubs
from mgvr_core.evaluation.metrics import Positions, ranks
from mgvr_core.evaluation.picks import pick_examples
from mgvr_core.evaluation.report import Example, ExampleKind, Hit, HubVideo
from mgvr_core.evaluation.thumbnails import data_uri
from mgvr_core.features.snapshot import Snapshot
from pipelines.answers import Answers

_TOP = 5
"""Results that an example shows."""
_LISTS = 65536
"""Lists that are put in order at once."""


def labelled_examples(each: int, seed: int, answers: Answers, coarse: Positions, final: Positions) -> list[Example]:
    """Up to `each` of the labelled queries of every kind (see `picks`)."""
    labelled = np.flatnonzero(answers.queries.labelled)
    before, after = ranks(coarse), ranks(final)
    picked = pick_examples(before, after, answers.k, each=each, seed=seed)
    return [
        _example(
            answers,
            int(labelled[row]),
            kind,
            float(before.mid[row]),
            float(after.mid[row]),
            _best_right(answers, final, row),
        )
        for row, kind in picked
    ]


def _best_right(answers: Answers, final: Positions, row: int) -> int:
    """The right video of a labelled query that stands highest in the final list, by its place in the pool."""
    mine = np.flatnonzero(final.query == row)
    return int(answers.truth.video[mine[final.better[mine].argmin()]])


def _example(
    answers: Answers,
    query: int,
    kind: ExampleKind,
    coarse_rank: float | None = None,
    rank: float | None = None,
    best_right: int | None = None,
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
            label=_label(answers, int(ranking.index[0, place])),
        )
        for place in shown
    ]
    if best_right is not None and rank is not None and not any(hit.right for hit in hits):
        (name,) = answers.pool.names(np.array([best_right]))
        hits.append(Hit(name, round(rank), None, True, _label(answers, best_right)))  # from beyond the candidates
    return Example(kind, queries.ids[query], queries.texts[text], tuple(hits), coarse_rank, rank)


def _label(answers: Answers, video: int) -> str:
    return PurePath(answers.pool.uris[video].as_py()).name


def search_examples(each: int, seed: int, answers: Answers) -> list[Example]:
    """Queries of a plain search, drawn: as many as four kinds of examples would be."""
    total = len(answers.queries.ids)
    drawn = np.random.default_rng(seed).choice(total, size=min(total, 4 * each), replace=False)
    return [_example(answers, row, "search") for row in sorted(drawn.tolist())]


def thumbnails(
    examples: list[Example], near: Sequence[HubVideo], answers: Answers, snapshot: Snapshot
) -> dict[str, str]:
    """The stored thumbnails of the videos that the examples show, and of the hubs, as data: URIs."""
    pool = answers.pool
    shown = sorted({*(hit.video for example in examples for hit in example.hits), *(hub.video for hub in near)})
    rows = pool.places(shown)
    found: dict[str, str] = {}
    for shard, mine in pool.by_shard(rows):
        pictures = snapshot.read_shard(snapshot.shards[shard], ["thumbnail"])["thumbnail"]
        for place in mine.tolist():
            if picture := pictures[int(pool.row[rows[place]])].as_py():
                found[shown[place]] = data_uri(picture)
    return found


def hub_videos(answers: Answers) -> Iterator[HubVideo]:
    """The videos that come first in the final lists of far more labelled queries than they are right for."""
    pool, text = answers.pool, answers.queries.text_of[answers.queries.labelled]  # (Q,)
    first = np.concatenate(
        [answers.ranking("fused", text[begin : begin + _LISTS]).index[:, 0] for begin in range(0, len(text), _LISTS)]
    )
    for video, times, right in hubs(first, np.bincount(answers.truth.video, minlength=len(pool))):
        (name,) = pool.names(np.array([video]))
        yield HubVideo(name, times, right, _label(answers, video))
