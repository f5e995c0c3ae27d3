"""The stages of the retrieve job, each resumable: lists of candidates, their rerank and proof, and what they miss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mgvr_core.config import Section
from mgvr_core.evaluation.report import IndexUse
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.identity import hash_json
from mgvr_core.retrieval.certify import certify, rth_best
from mgvr_core.retrieval.coarse import Candidates, behind, search
from mgvr_core.retrieval.index import IndexConfig, recall_at_k
from mgvr_core.retrieval.rerank import Reranker
from mgvr_core.retrieval.two_stage import reranked
from pipelines.answers import Answers, Backwards, Queries, Truth
from pipelines.pool import Pool
from pipelines.rows import Column, Rows
from pipelines.runtime import Stopwatch
from pipelines.searching import Crew
from pipelines.texts import TEXT_BLOCK, text_columns


def list_columns(k: int, scores: Sequence[str], certified: bool) -> dict[str, Column]:
    """What both stages find for a text: its candidates, best first by the coarse score, and their scores.

    With a certificate also the final list, which may hold other videos, whether its top is proven, and how many videos
    were scored for that.
    """
    columns: dict[str, Column] = {"index": (np.int64, (k,)), "coarse": (np.float32, (k,))}
    columns |= dict.fromkeys(scores, (np.float32, (k,)))
    if certified:
        columns |= {"final_index": (np.int64, (k,)), "final_score": (np.float32, (k,))}
        columns |= {"certified": (np.bool_, ()), "scored": (np.int64, ())}
    return columns


PLACE_COLUMNS: dict[str, Column] = {"better": (np.int64, ()), "tied": (np.int64, ())}
"""Where a right answer stands that is not among its text's candidates; 0 for one that is."""


class CertifyConfig(Section):
    """Rerank more than k videos of a text where that may change its first ones."""

    top: int = Field(10, gt=0, description="places of the final list that are to be those of exhaustive fused search")
    limit: int = Field(1000, gt=0, description="videos that are reranked for one text at most; beyond, none is proven")


def opened(
    folder: Path,
    queries: Queries,
    pool: Pool,
    reranker: Reranker,
    k: int,
    texts_at_once: int,
    certify: CertifyConfig | None,
) -> Answers:
    """The answers as far as an earlier run of the same job has them."""
    truth, scores = Truth.of(queries, pool), [*reranker.weights.active, "fused"]
    T, D = len(queries.texts), reranker.projection.shape[0]
    return Answers(
        queries=queries,
        pool=pool,
        truth=truth,
        texts=Rows(folder / "texts", T, TEXT_BLOCK, text_columns(D)),
        lists=Rows(folder / "lists", T, texts_at_once, list_columns(min(k, len(pool)), scores, certify is not None)),
        places=Rows(folder / "places", len(truth.query), texts_at_once, PLACE_COLUMNS),
        projection=reranker.projection.numpy(),
    )


def answer_texts(
    crew: Crew, reranker: Reranker, answers: Answers, proof: CertifyConfig | None, watch: Stopwatch, counter: Any
) -> None:
    """Both stages, and the certificate where one is wanted, for every block of texts that is not finished."""
    lists = answers.lists
    counter.add.remote("answered", lists.finished)
    counter.add.remote("resumed", lists.finished)
    for block in lists.unfinished():
        text = np.asarray(answers.texts["vector"][block])  # (T, D)
        with watch.stage("stage 1: search"):
            candidates = crew.search(answers.projected(block), answers.k)
        with watch.stage("stage 2: rerank"):
            scores = crew.rerank(reranker, text, *candidate_pairs(candidates), counter)
        listed = {name: values.reshape(candidates.index.shape) for name, values in scores.items()}
        if proof is not None:
            with watch.stage("certificate"):
                listed |= _certified(crew, reranker, text, candidates, listed["fused"], proof, counter)
        lists.finish(block, {"index": candidates.index, "coarse": candidates.score, **listed})
        counter.add.remote("answered", len(text))


def _certified(
    crew: Crew,
    reranker: Reranker,
    text: NDArray[np.float32],
    candidates: Candidates,
    fused: NDArray[np.float32],
    proof: CertifyConfig,
    counter: Any,
) -> dict[str, NDArray[Any]]:
    """The final lists of texts (T, D): as long as the candidates', by the fused score, from all that were scored."""
    top, k = min(proof.top, fused.shape[1]), fused.shape[1]
    room = max(0, proof.limit - k)
    promising = crew.promising(reranker, text, candidates.index, rth_best(top, fused), room)

    def score(query: NDArray[np.int64], video: NDArray[np.int64]) -> NDArray[np.float32]:
        return crew.rerank(reranker, text, query, video, counter)["fused"]

    found = certify(top, candidates, fused, promising, score)
    index, best = found.best(k)
    return {"final_index": index, "final_score": best, "certified": found.certified, "scored": found.k}


def place_lost(crew: Crew, answers: Answers) -> None:
    """Where right answers stand that some list of their text lacks, block by block."""
    truth, places = answers.truth, answers.places
    for block in places.unfinished():
        text, video = truth.text[block], truth.video[block]
        better, tied = np.zeros(len(video), np.int64), np.zeros(len(video), np.int64)
        candidates = answers.candidates(text)  # (M, k)
        final = answers.ranking("fused", text).index
        lost = np.flatnonzero((candidates.index != video[:, None]).all(axis=1) | (final != video[:, None]).all(axis=1))
        if len(lost):
            asked = answers.projected(text[lost])
            distinct, where = np.unique(video[lost], return_inverse=True)
            scores = np.einsum("md,md->m", asked, crew.vectors(distinct, asked.shape[1])[where])
            among = crew.standing(asked, scores)
            better[lost], tied[lost] = behind(candidates.score[lost], asked, scores, among)
        places.finish(block, {"better": better, "tied": tied})


def answer_videos(crew: Crew, reranker: Reranker, answers: Answers, k: int, counter: Any) -> Backwards | None:
    """The other direction, with a recall and a rerank of its own; None where no video asks."""
    asked, captions = answers.asking_videos, answers.captions
    if not len(asked):
        return None
    vectors = crew.vectors(asked, answers.projection.shape[1])
    found = search(vectors, answers.projected(captions), k)
    row, caption = candidate_pairs(found)
    texts = np.asarray(answers.texts["vector"][captions])
    fused = crew.rerank(reranker, texts, caption, asked[row], counter)["fused"].reshape(found.index.shape)
    found = Candidates(captions[found.index], found.score)  # rows of all texts
    return Backwards(vectors, found, reranked(found, fused))


def index_identity(snapshot: Snapshot) -> dict[str, Any]:
    """Which coarse vectors an index, or finished lists, are of."""
    return {
        "features": snapshot.fingerprint.digest,
        "shards": hash_json([shard.to_json() for shard in snapshot.shards]),
        "rows": snapshot.rows,
    }


def index_use(crew: Crew, answers: Answers, config: IndexConfig) -> IndexUse:
    """How much of exact search's k best the index found, over a sample of the texts."""
    total = answers.lists.total
    drawn = np.random.default_rng(config.seed).choice(total, min(config.sample, total), replace=False)
    rows = np.sort(drawn)
    exact = crew.search_exactly(answers.projected(rows), answers.k)
    recall = recall_at_k(answers.candidates(rows), exact)
    return IndexUse(config.factory, config.search or "", recall, answers.k, len(rows))


def candidate_pairs(candidates: Candidates) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(query, item) of every candidate, row by row: both (Q * k,)."""
    Q, k = candidates.index.shape
    return np.repeat(np.arange(Q), k), candidates.index.reshape(-1)
