"""One Ray task scores a system of the grid, and measures it under every correction that the grid asks for."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgvr_core.evaluation.hubness import DUAL_SOFTMAX, SINKHORN, Bank, correct
from mgvr_core.evaluation.metrics import Positions
from mgvr_core.features.schema import column_bytes, shape_of
from mgvr_core.features.store import FeatureStore
from mgvr_core.files import placing
from mgvr_core.model.load import load_model
from mgvr_core.retrieval.coarse import Candidates
from mgvr_core.retrieval.part import Part
from mgvr_core.retrieval.rerank import Reranker
from mgvr_core.retrieval.scored import Shards, columns_read, decoded, score_candidates, score_lists, score_pool
from mgvr_core.retrieval.two_stage import places, positions, reranked
from mgvr_core.scorers.catalogue import find
from mgvr_core.scorers.scorer import AnyScorer, ListScorer, MatrixScorer, Setting, Sizes, Texts
from mgvr_core.scoring.fusion import FusionWeights, multiply_adds
from mgvr_core.training.head_files import load_head
from pipelines.answers import Queries, Truth
from pipelines.environment import hardware, versions
from pipelines.grid import EERCF, NONE, Cell, GridConfig
from pipelines.grid_inputs import Inputs, coarse_vectors, load_candidates, load_texts, projected
from pipelines.models import model_fingerprint
from pipelines.pool import load_pool


@dataclass(frozen=True)
class Scored:
    """What a system gives some texts: n videos each, the candidates or all."""

    candidates: Candidates
    """(t, n), in the order of stage 1; where all are scored, in the order of ids."""
    score: NDArray[np.float32]
    """(t, n)."""


@ray.remote(max_retries=3)
def score_cells(
    config: GridConfig, inputs: Inputs, queries: Queries, cells: list[Cell], digests: list[str], folders: list[str]
) -> None:
    """Score what the cells have in common, which is all but the correction; then measure each."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    system = System(config, inputs, queries, cells[0])
    asked = np.unique(queries.text_of[queries.labelled])  # (t,) rows of the texts
    system.make_ready()
    began = time.perf_counter()
    found = system.score(asked)
    seconds = (time.perf_counter() - began) / len(asked) + system.stage_one_seconds
    made_by = {"versions": versions(), "hardware": hardware()}
    for cell, digest, folder in zip(cells, digests, folders, strict=True):
        position, first, label, transductive = system.measure(cell, asked, found)
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        (place / "cell.json").unlink(missing_ok=True)  # it vouches for what is about to be replaced
        with placing(place / "positions.npz") as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, first=first, **_arrays(position))
        about = {"digest": digest, "seconds": 1000 * seconds, "label": label, "transductive": transductive}
        about |= {**system.costs(), **system.about(), **made_by}
        with placing(place / "cell.json") as partial:
            partial.write_text(json.dumps(about, indent=1), encoding="utf-8")


def _arrays(positions: Positions) -> dict[str, Any]:
    return {name: np.asarray(getattr(positions, name)) for name in Positions.__dataclass_fields__}


def read_positions(folder: Path) -> tuple[Positions, list[str]]:
    """Where the right answers of a measured cell stand, and the id of the first video of each labelled query."""
    with np.load(folder / "positions.npz", allow_pickle=False) as file:
        first: list[str] = file["first"].tolist()
        placed = (file["query"], file["better"], file["tied"])
        return Positions(*placed, int(file["num_queries"]), int(file["pool"]), file["missing"]), first


class System:
    """A cell's model, features and scorer, in the process that scores it."""

    def __init__(self, config: GridConfig, inputs: Inputs, queries: Queries, cell: Cell) -> None:
        self._config, self._inputs, self._queries, self._cell = config, inputs, queries, cell
        self._snapshot = FeatureStore(inputs.features[cell.codec]).snapshot()
        self._codec, self._shape = self._snapshot.codec(), shape_of(self._snapshot.schema())
        self._pool = load_pool(self._snapshot)
        self._texts = load_texts(inputs.texts)
        self._model = load_model(inputs.model)
        self.stage_one_seconds = 0.0
        if cell.k is not None:
            self._candidates, self.stage_one_seconds = load_candidates(inputs.candidates[cell.index, cell.k])

    def score(self, rows: NDArray[np.int64]) -> Scored:
        """The scores of some texts (t,)."""
        if self._cell.k is None:
            N = len(self._pool)
            every = np.broadcast_to(np.arange(N), (len(rows), N))
            candidates = Candidates(every, np.zeros(every.shape, np.float32))
        else:
            candidates = self._candidates[rows]
        if self._cell.scorer == EERCF:
            return Scored(candidates, self._fused(rows, candidates.index))
        return Scored(candidates, self._scores(self._texts.take(torch.from_numpy(rows)), candidates))

    def measure(
        self, cell: Cell, rows: NDArray[np.int64], found: Scored
    ) -> tuple[Positions, NDArray[np.str_], str, bool]:
        """Where right answers stand after the cell's correction, and the id of every labelled query's first video.

        And what a reader must know, and whether it has read the other test queries. rows (t,): the texts that were
        scored, ascending.
        """
        score, labels = found.score, [self._label] if self._label else []
        transductive = bool(labels)
        if cell.correction != NONE:
            kind = self._config.corrections[cell.correction]
            bank = None if kind.kind == "dual_softmax" or not len(self._queries.bank) else self._bank
            corrected, name = correct(kind, found.candidates.index, found.score, bank)
            score = corrected  # type: ignore[assignment]
            labels.append(f"{name}; {kind.parameters}")
            transductive = transductive or name in (DUAL_SOFTMAX, SINKHORN)
        ranking = reranked(found.candidates, score)
        truth = Truth.of(self._queries, self._pool)
        text = np.searchsorted(rows, truth.text)
        if cell.k is None:
            _, better, tied = places(ranking, text, truth.video)  # every video is listed
        else:
            asked = self._queries_projected[rows]
            better, tied = positions(ranking, found.candidates, asked, self._coarse, text, truth.video)
        place = Positions(truth.query, better, tied, len(truth.missing), len(self._pool), truth.missing)
        labelled = self._queries.text_of[self._queries.labelled]
        first = self._pool.names(ranking.index[np.searchsorted(rows, labelled), 0])
        return place, np.array(first), "; ".join(labels), transductive

    def costs(self) -> dict[str, int | None]:
        """Multiply-adds a query (what an index multiplies, nobody counts), bytes a video, the scorer's parameters."""
        cell, N, shape = self._cell, len(self._pool), self._shape
        sizes = column_bytes(self._snapshot.schema())
        if cell.scorer == EERCF:
            weights = self._reranker.weights
            pair, parameters = multiply_adds(weights, shape.frames, shape.patches, shape.dim), 0
            columns = self._reranker.columns(self._codec)
        else:
            scorer = self._scorer
            pair, parameters = scorer.multiply_adds(self._sizes), sum(each.numel() for each in scorer.parameters())
            columns = columns_read(scorer.reads, self._codec)
        if cell.k is not None:
            columns = ["video", *columns]
        held = sum(sizes[name] for name in set(columns) - {"mask"})
        macs = N * pair if cell.k is None else N * shape.dim + min(cell.k, N) * pair
        if cell.index != NONE:
            return {"macs": None, "bytes": held, "parameters": parameters}
        return {"macs": macs, "bytes": held, "parameters": parameters}

    def make_ready(self) -> None:
        """Load, and score the bank where the scorer reads one: what is no part of scoring a query."""
        if self._cell.scorer == EERCF:
            _ = self._reranker
        elif self._scorer.reads_bank:
            _ = self._bank_parts

    @property
    def _label(self) -> str:
        """What a reader must know of its scores without a correction."""
        transductive = self._cell.scorer != EERCF and find(self._cell.scorer).transductive
        return "transductive: normalised over the test queries and what they recall" if transductive else ""

    def about(self) -> dict[str, Any]:
        """What the report says of the model and the features."""
        model, snapshot = self._model, self._snapshot
        name = f"{self._cell.model}: " if len(self._config.models) > 1 else ""
        code = "" if self._cell.codec == NONE else f", codec {self._cell.codec}"
        return {
            "features": snapshot.url,
            "fingerprints": {
                f"{name}model": model_fingerprint(model.model).digest,
                f"{name}features{code}": f"{snapshot.fingerprint.digest}, snapshot {snapshot.number}",
            },
            "tokens": model.model.spec.text_length,
            "frames": self._shape.frames,
            "warnings": [*model.notes, *model.about.get("warnings", ())],
        }

    @cached_property
    def _sizes(self) -> Sizes:
        shape = self._shape
        return Sizes(shape.frames, shape.patches, shape.dim, self._model.model.spec.text_length)

    @cached_property
    def _setting(self) -> Setting:
        model = self._model.model
        # U means something at the number of frames that it was trained with, and at no other.
        fits, wanted = model.spec.frames == self._shape.frames, self._cell.scorer in (EERCF, "frame_weak")
        mixing = model.mixing_for(self._shape.frames, enabled=fits or wanted)
        return Setting(
            sizes=self._sizes,
            projection=model.video_projection.detach(),
            mixing=None if mixing is None else mixing.detach(),
            scale=model.logit_scale().item(),
            seed=self._cell.seed,
        )

    @cached_property
    def _queries_projected(self) -> NDArray[np.float32]:
        return projected(self._model.model, self._texts)

    @cached_property
    def _coarse(self) -> NDArray[np.float32]:
        return coarse_vectors(self._snapshot, self._pool)

    @cached_property
    def _scorer(self) -> AnyScorer:
        cell = self._cell
        if cell.learned:
            folder = Path(self._inputs.heads[cell.scorer, cell.seed])
            return load_head(folder, model_fingerprint(self._model.model), self._setting).eval()
        return find(cell.scorer)(self._setting).eval()

    @cached_property
    def _reranker(self) -> Reranker:
        cell = self._cell
        stored = FusionWeights(**self._model.about.get("fusion", {}))
        weights = stored if cell.weights == NONE else self._config.weights[cell.weights]
        return Reranker(weights, self._setting.projection.float(), self._setting.mixing if weights.frame_weak else None)

    @cached_property
    def _bank_parts(self) -> Tensor:
        """The parts of the bank's captions with every video, (C, B, N)."""
        scorer, captions = self._scorer, self._texts.take(torch.from_numpy(self._queries.bank))
        assert isinstance(scorer, MatrixScorer)  # a list has nothing to normalise
        return score_pool(scorer, captions, self._shards(), len(self._pool))

    @cached_property
    def _bank(self) -> Bank:
        """The lists of the bank's captions by the same system."""
        found = self.score(self._queries.bank)
        return found.candidates.index, found.score

    def _shards(self) -> Shards:
        """What the scorer reads, shard by shard."""
        reads = self._scorer.reads
        columns = columns_read(reads, self._codec)
        for number, place in self._pool.order.items():
            table = self._snapshot.read_shard(self._snapshot.shards[number], columns)
            yield place, decoded(table, reads, self._codec)

    def _scores(self, texts: Texts, candidates: Candidates) -> NDArray[np.float32]:
        scorer, N = self._scorer, len(self._pool)
        if "words" not in scorer.reads:
            texts = Texts(texts.vector, None, None)
        if isinstance(scorer, ListScorer):
            return score_lists(scorer, texts, self._shards(), candidates.index, candidates.score).numpy()
        columns: Tensor | None = None
        if self._cell.k is None:
            parts = score_pool(scorer, texts, self._shards(), N)
        else:
            parts = score_candidates(scorer, texts, self._shards(), candidates.index)
            columns = torch.from_numpy(candidates.index)
        bank = self._bank_parts if scorer.reads_bank else None
        with torch.inference_mode():
            scores: NDArray[np.float32] = scorer.combine(parts, columns, bank).numpy()
        return scores

    def _fused(self, rows: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.float32]:
        """EERCF's own rerank, as `mgvr retrieve` does it: index (t, n) -> (t, n)."""
        part = Part(self._snapshot, self._pool.order, keep_bytes=0)
        text, video = np.repeat(np.arange(len(index)), index.shape[1]), index.reshape(-1)
        score = np.empty(len(video), np.float32)
        for number, mine in self._pool.by_shard(video):
            pairs = {number: (text[mine], self._pool.row[video[mine]])}
            found = part.rerank(self._reranker, np.asarray(self._texts.vector[rows]), pairs)
            score[mine] = found[number]["fused"]
        return score.reshape(index.shape)
