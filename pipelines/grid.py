"""What a sweep over a grid is told, and the cells that it expands to."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from mgvr_core.config import LocalPath, Section
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.datasets.queries import QueriesConfig
from mgvr_core.datasets.scenes import ProceduralConfig
from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.hubness import CorrectionConfig
from mgvr_core.features.layout import CodecConfig
from mgvr_core.identity import hash_json
from mgvr_core.model.load import ModelConfig
from mgvr_core.retrieval.index import IndexConfig
from mgvr_core.scorers.catalogue import catalogue, find, is_learned
from mgvr_core.scoring.fusion import FusionWeights
from mgvr_core.storage import StorePath
from pipelines.measuring import ReportConfig
from pipelines.runtime import RayConfig

EERCF = "eercf"
"""The name of the fused score, which is no single scorer: `mgvr retrieve`'s own rerank."""
NONE = "none"
"""The name of no codec, no index (exact search), no correction; of weights: the checkpoint's."""
METRICS = ("R@1", "R@5", "R@10", "MdR", "MnR", "MRR", "nDCG@10")
_SET_HERE = {"out", "data", "scorer", "features", "corpus", "model", "seed", "restart", "ray"}
_TABLES = "models, weights, codecs, indexes and corrections"
SHARED = ("model", "scorer", "k", "weights", "codec", "index", "seed")
"""What cells that differ in their correction alone have in common: they are scored once."""


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


Names = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]


class ModelChoice(Section):
    """A model, and the features that it is searched with."""

    model: ModelConfig | None = Field(None, description="which model")
    train: dict[str, Any] | None = Field(
        None, description="or keys of mgvr train, nested: it is trained on the sweep's training and validation videos"
    )
    encode: dict[str, Any] = Field(default_factory=dict, description="keys of mgvr encode: sampling, features ...")
    features: StorePath | None = Field(None, description="a feature set that is there already; none: encoded here")
    training_features: StorePath | None = Field(
        None, description="the same of the training videos; none: encoded here, where a scorer has to be trained"
    )

    @model_validator(mode="after")
    def _one_way(self) -> ModelChoice:
        if (self.model is None) == (self.train is None):
            raise ValueError("give one of model and train")
        if taken := self.encode.keys() & {"out", "corpus", "model", "ray"}:
            raise ValueError(f"encode: {', '.join(sorted(taken))} is set by the sweep itself: remove it")
        if self.train is not None and (taken := self.train.keys() & {"out", "corpus", "validation", "test", "ray"}):
            raise ValueError(f"train: {', '.join(sorted(taken))} is set by the sweep itself: remove it")
        return self


class AxesConfig(Section):
    """A part of the grid: every combination of its axes is a cell. An axis takes one value or a list."""

    scorer: Names = Field(description="names of scorers (docs/scorers.md), or eercf")
    model: Names | None = Field(None, description="names of `models`; none: all")
    k: Annotated[tuple[PositiveInt | None, ...], BeforeValidator(_listed), Field(min_length=1)] = Field(
        (50,), description="candidates of stage 1 that the scorer reranks; null: it scores every video"
    )
    weights: Names = Field((NONE,), description="names of `weights`, for eercf; none: the checkpoint's")
    codec: Names = Field((NONE,), description="names of `codecs`; none: as encoded")
    index: Names = Field((NONE,), description="names of `indexes`; none: exact")
    correction: Names = Field((NONE,), description="names of `corrections`; none: raw scores")
    seed: Annotated[tuple[int, ...], BeforeValidator(_listed), Field(min_length=1)] = Field(
        (0,), description="seeds of a learned scorer's training"
    )


class GridConfig(Section):
    """mgvr sweep, over a grid of retrieval systems."""

    out: LocalPath = Field(description="folder of the sweep")
    title: str = Field("A sweep over retrieval systems", description="title of the page")
    procedural: ProceduralConfig | None = Field(None, description="make this procedural corpus, and use its splits")
    corpus: CorpusConfig | None = Field(
        None, description="the videos that are searched; none where every model brings its features"
    )
    queries: QueriesConfig | None = Field(None, description="the queries, with their right videos")
    training: CorpusConfig | None = Field(
        None, description="captioned videos that scorers and models are trained on, and that banks are drawn from"
    )
    validation: CorpusConfig | None = Field(None, description="captioned videos that a trained model is chosen on")
    models: dict[str, ModelChoice] = Field(min_length=1, description="name -> a model and its features")
    codecs: dict[str, CodecConfig] = Field(default_factory=dict, description="name -> keys of codec")
    indexes: dict[str, IndexConfig] = Field(default_factory=dict, description="name -> keys of search.index")
    weights: dict[str, FusionWeights] = Field(default_factory=dict, description="name -> weights of the fused score")
    corrections: dict[str, CorrectionConfig] = Field(default_factory=dict, description="name -> a correction")
    heads: dict[str, Any] = Field(default_factory=dict, description="keys of mgvr train --scorer, for all scorers")
    head: dict[str, dict[str, Any]] = Field(default_factory=dict, description="scorer -> such keys for it alone")
    grid: tuple[AxesConfig, ...] = Field(min_length=1, description="parts of the grid")
    bank: int = Field(1000, gt=0, description="training captions that corrections and UCoFiA normalise against")
    bank_seed: int = Field(0, ge=0, description="seed of the draw of those captions")
    baseline: str | None = Field(None, description="the row that gains are over; none: the first")
    expected: dict[str, dict[str, tuple[float, PositiveFloat]]] = Field(
        default_factory=dict, description="row -> metric -> [value, tolerance], in percent for rates"
    )
    parallel: int = Field(1, gt=0, description="cells scored at once, one thread each; they share the machine")
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _whole(self) -> GridConfig:
        given = [self.corpus, self.queries, self.training, self.validation]
        if self.procedural is not None and any(each is not None for each in given):
            raise ValueError("procedural makes all splits itself: leave corpus, queries, training and validation out")
        encoded = [name for name, choice in self.models.items() if choice.features is None]
        if self.procedural is None and self.queries is None:
            raise ValueError("give queries, or procedural")
        if self.procedural is None and encoded and self.corpus is None:
            raise ValueError(f"corpus: nothing says which videos {encoded[0]} is to encode; give it, or its features")
        if self.corpus is not None and not encoded:
            raise ValueError("corpus: every model brings its features, so nothing would be encoded: leave it out")
        for values in (self.heads, *self.head.values()):
            if taken := values.keys() & _SET_HERE:
                raise ValueError(f"heads, head: {', '.join(sorted(taken))} is set by the sweep itself: remove it")
        if unknown := self.head.keys() - catalogue().keys():
            raise ValueError(f"head: there is no scorer {sorted(unknown)[0]!r}; there are: {', '.join(catalogue())}")
        for name in (*self.codecs, *self.indexes, *self.weights, *self.corrections):
            if name == NONE:
                raise ValueError(f"{NONE!r} stands for none of them: choose another name")
        return self


@dataclass(frozen=True)
class Cell:
    """One system of the grid."""

    model: str
    scorer: str
    k: int | None
    weights: str
    codec: str
    index: str
    correction: str
    seed: int
    name: str = ""
    """The row's name: what tells it from the other rows."""

    @property
    def learned(self) -> bool:
        """Whether its scorer is trained."""
        return self.scorer != EERCF and is_learned(self.scorer)

    @property
    def settings(self) -> dict[str, str]:
        """As a table shows them."""
        values = {**self.__dict__, "k": "all" if self.k is None else str(self.k), "seed": str(self.seed)}
        shown = {key: value for key, value in values.items() if key != "name" and value != NONE}
        if not self.learned:
            del shown["seed"]
        return shown


def cell_folder(out: Path, cell: Cell) -> Path:
    """Where what a cell gave is kept."""
    return out / "cells" / hash_json([getattr(cell, axis) for axis in (*SHARED, "correction")])[:16]


def cells_of(config: GridConfig) -> list[Cell]:
    """The cells, each with a name of its own; raises MgvrError for what the grid names and the file has not."""
    found = {cell: None for part in config.grid for cell in _expanded(config, part)}
    cells = list(found)
    for cell in cells:
        _require_sense(config, cell)
    named = _named(cells)
    if twice := [name for name, times in Counter(cell.name for cell in named).items() if times > 1]:
        raise MgvrError(f"two systems are called {twice[0]!r}: give the entries of {_TABLES} names that differ")
    for row in [*([config.baseline] if config.baseline else []), *config.expected]:
        if row not in {cell.name for cell in named}:
            raise MgvrError(f"there is no row {row!r}; the rows are: {', '.join(cell.name for cell in named)}")
    for row, figures in config.expected.items():
        if unknown := figures.keys() - set(METRICS):
            raise MgvrError(
                f"expected.{row}: there is no metric {sorted(unknown)[0]!r}; there are: {', '.join(METRICS)}"
            )
    return named


def _expanded(config: GridConfig, part: AxesConfig) -> Iterator[Cell]:
    models = part.model or tuple(config.models)
    axes = (models, part.scorer, part.k, part.weights, part.codec, part.index, part.correction, part.seed)
    for model, scorer, k, weights, codec, index, correction, seed in itertools.product(*axes):
        cell = Cell(model, scorer, k, weights, codec, index, correction, seed)
        yield cell if cell.learned else replace(cell, seed=0)


def _require_sense(config: GridConfig, cell: Cell) -> None:
    """Raise MgvrError for a cell that can't be."""
    where = f"grid: {cell.scorer} on {'all' if cell.k is None else cell.k}"
    tables: dict[str, Sequence[str]] = {
        "model": list(config.models),
        "weights": [NONE, *config.weights],
        "codec": [NONE, *config.codecs],
        "index": [NONE, *config.indexes],
        "correction": [NONE, *config.corrections],
    }
    for axis, known in tables.items():
        if getattr(cell, axis) not in known:
            raise MgvrError(f"{where}: there is no {axis} {getattr(cell, axis)!r}; there are: {', '.join(known)}")
    if cell.scorer != EERCF:
        find(cell.scorer)
    if cell.k is None and cell.index != NONE:
        raise MgvrError(f"{where}: an index finds candidates, and every video is scored: give a k")
    if cell.scorer != EERCF and cell.weights != NONE:
        raise MgvrError(f"{where}: weights are those of {EERCF}")
    if cell.k is None and cell.scorer != EERCF and find(cell.scorer).kind == "list":
        raise MgvrError(f"{where}: {cell.scorer} ranks a list of candidates: give a k")
    trained = cell.learned or (cell.correction != NONE and config.corrections[cell.correction].kind == "qb_norm")
    if trained and config.procedural is None and config.training is None:
        reader = cell.scorer if cell.learned else cell.correction
        raise MgvrError(f"{where}: {reader} reads training captions: give training.uri")


def _named(cells: Sequence[Cell]) -> list[Cell]:
    """Cells with names: the scorer, and every setting in which cells differ."""
    differ = {axis for axis in ("model", "seed") if len({getattr(cell, axis) for cell in cells}) > 1}
    named = []
    for cell in cells:
        parts = [cell.scorer if cell.k is None else f"{cell.scorer} on {cell.k}"]
        chosen = [cell.weights, cell.codec, cell.index, cell.correction]
        parts += [name for name in chosen if name != NONE]
        parts += [cell.model] if "model" in differ else []
        parts += [f"seed {cell.seed}"] if "seed" in differ and cell.learned else []
        named.append(replace(cell, name=", ".join(parts)))
    return named
