"""The stages of the retrieve job, each resumable: lists of candidates, their rerank and proof, and what they miss."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mgvr_core.config import Section
from mgvr_core.evaluation.report import IndexUse
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.files import placing
from mgvr_core.identity import hash_json
from mgvr_core.retrieval.certify import certify, rth_best
from mgvr_core.retrieval.coarse import Candidates, behind, search_blocks
from mgvr_core.retrieval.index import IndexConfig, recall_at_k
from mgvr_core.retrieval.part import BLOCK_ROWS
from mgvr_core.retrieval.rerank import Reranker
from pipelines.answers import Answers, Queries, Truth
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


def place_columns(certified: bool) -> dict[str, Column]:
    """Where right answers stand: items before each, and others tied with it; 0 for one that is listed.

    By the candidates, and with a certificate also by the final lists.
    """
    names = ["better", "tied", *(["final_better", "final_tied"] if certified else [])]
    return dict.fromkeys(names, (np.int64, ()))


def video_columns(k: int, dim: int) -> dict[str, Column]:
    """What a video finds that asks: its coarse vector, rows of texts, best first by the coarse score, both scores."""
    scores: dict[str, Column] = dict.fromkeys(("coarse", "fused"), (np.float32, (k,)))
    return {"vector": (np.float32, (dim,)), "index": (np.int64, (k,)), **scores}


SEARCH, RERANK, CERTIFY = "stage 1: search", "stage 2: rerank", "certificate"
"""What the report calls the stages of every block."""
_PROVEN = 1024
"""Texts that are certified at once: what is promising of them is held together."""


class CertifyConfig(Section):
    """Rerank more than k videos of a text where that may change its first ones."""

    top: int = Field(10, gt=0, description="places of the final list that are to be those of exhaustive fused search")
    limit: int = Field(1000, gt=0, description="videos that are reranked for one text at most; beyond, none is proven")


def opened(
    texts: Path,
    lists: Path,
    queries: Queries,
    pool: Pool,
    reranker: Reranker,
    k: int,
    at_once: int,
    certify: CertifyConfig | None,
    video_to_text: bool = True,
) -> Answers:
    """The answers as far as earlier runs of the same job have them: texts in one folder, all else in another."""
    truth, scores = Truth.of(queries, pool), [*reranker.weights.active, "fused"]
    T, D = len(queries.texts), reranker.projection.shape[0]
    proven = certify is not None
    captions = int(np.unique(queries.text_of[queries.labelled]).size)
    asking = int(np.unique(truth.video).size) if video_to_text else 0
    return Answers(
        queries=queries,
        pool=pool,
        truth=truth,
        texts=Rows(texts, T, TEXT_BLOCK, text_columns(D)),
        lists=Rows(lists / "lists", T, at_once, list_columns(min(k, len(pool)), scores, proven)),
        places=Rows(lists / "places", len(truth.query), at_once, place_columns(proven)),
        videos=Rows(lists / "videos", asking, at_once, video_columns(min(k, captions), D)),
        projection=reranker.projection.numpy(),
    )


def answer_texts(
    crew: Crew,
    reranker: Reranker,
    answers: Answers,
    proof: CertifyConfig | None,
    watch: Stopwatch,
    counter: Any,
    done: Callable[[], object] = lambda: None,
) -> None:
    """Both stages, and the certificate where one is wanted, for every block of texts that is not finished.

    `done` is called after each.
    """
    lists = answers.lists
    counter.add.remote("answered", lists.finished)
    counter.add.remote("resumed", lists.finished)
    for block in lists.unfinished():
        text = np.asarray(answers.texts["vector"][block])  # (T, D)
        with watch.stage(SEARCH):
            candidates = crew.search(answers.projected(block), answers.k)
        with watch.stage(RERANK):
            scores = crew.rerank(reranker, text, *candidate_pairs(candidates), counter)
        listed = {name: values.reshape(candidates.index.shape) for name, values in scores.items()}
        if proof is not None:
            with watch.stage(CERTIFY):
                listed |= _certified(crew, reranker, text, candidates, listed["fused"], proof, counter)
        lists.finish(block, {"index": candidates.index, "coarse": candidates.score, **listed})
        counter.add.remote("answered", len(text))
        done()


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
    parts = []
    for begin in range(0, len(text), _PROVEN):
        some = slice(begin, begin + _PROVEN)
        asked = text[some]
        promising = crew.promising(
            reranker, asked, candidates.index[some], rth_best(top, fused[some]), max(0, proof.limit - k)
        )

        def score(
            query: NDArray[np.int64], video: NDArray[np.int64], asked: NDArray[np.float32] = asked
        ) -> NDArray[np.float32]:
            return crew.rerank(reranker, asked, query, video, counter)["fused"]

        found = certify(top, candidates[some], fused[some], promising, score)
        index, best = found.best(k)
        parts.append({"final_index": index, "final_score": best, "certified": found.certified, "scored": found.k})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def place_lost(crew: Crew, answers: Answers) -> None:
    """Where right answers stand that some list of their text lacks, block by block."""
    truth, places, certified = answers.truth, answers.places, "final_index" in answers.lists
    for block in places.unfinished():
        text, video = truth.text[block], truth.video[block]
        candidates = answers.candidates(text)  # (M, k)
        final = answers.lists["final_index"][text] if certified else candidates.index
        missed = [(listed != video[:, None]).all(axis=1) for listed in (candidates.index, final)]
        lost = np.flatnonzero(missed[0] | missed[1])
        columns = {name: np.zeros(len(video), np.int64) for name in place_columns(certified)}
        if len(lost):
            asked = answers.projected(text[lost])
            distinct, where = np.unique(video[lost], return_inverse=True)
            truths = np.einsum("md,md->m", asked, crew.vectors(distinct, asked.shape[1])[where])
            among = crew.standing(asked, truths)
            columns["better"][lost], columns["tied"][lost] = behind(candidates.score[lost], asked, truths, among)
            if certified:
                scores = crew.coarse_scores(asked, final[lost])
                columns["final_better"][lost], columns["final_tied"][lost] = behind(scores, asked, truths, among)
        places.finish(block, columns)


def answer_videos(crew: Crew, reranker: Reranker, answers: Answers, counter: Any) -> None:
    """The other direction, with a recall and a rerank of its own, for every block of videos that is not finished."""
    asked, captions, videos = answers.asking_videos, answers.captions, answers.videos
    counter.add.remote("answered", videos.finished)
    counter.add.remote("resumed", videos.finished)
    for block in videos.unfinished():
        vectors = crew.vectors(asked[block], answers.projection.shape[1])
        parts = (captions[begin : begin + BLOCK_ROWS] for begin in range(0, len(captions), BLOCK_ROWS))
        blocks = ((answers.projected(rows), rows) for rows in parts)  # rows of texts ascend, as ids do
        found = search_blocks(vectors, blocks, videos["index"].shape[1])
        row, text = candidate_pairs(found)
        used, place = np.unique(text, return_inverse=True)
        scores = crew.rerank(reranker, np.asarray(answers.texts["vector"][used]), place, asked[block][row], counter)
        fused = scores["fused"].reshape(found.index.shape)
        counter.add.remote("answered", len(vectors))
        videos.finish(block, {"vector": vectors, "index": found.index, "coarse": found.score, "fused": fused})


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


def store_use(folder: Path, use: IndexUse) -> None:
    """Keep what was measured of the index beside the lists that it found."""
    with placing(folder / "index-use.json") as partial:
        partial.write_text(json.dumps(asdict(use)), encoding="utf-8")


def stored_use(folder: Path) -> IndexUse | None:
    """What was measured of the index; None: the search was exact."""
    file = folder / "index-use.json"
    return IndexUse(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def candidate_pairs(candidates: Candidates) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(query, item) of every candidate, row by row: both (Q * k,)."""
    Q, k = candidates.index.shape
    return np.repeat(np.arange(Q), k), candidates.index.reshape(-1)
