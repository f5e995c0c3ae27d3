r"""Figures of a similarity matrix, or of a TREC run: with intervals and protocol, and as the usual scripts print them.

Reads    similarity: a .npy file (T, V) of float16, float32 or float64, rows the queries, columns the videos; and who
         they are: dataset and annotations, or queries.uri (id, text, relevant) and videos (the ids of the columns)
         or run and qrels: TREC files; videos says how large the pool is, if a run's lists do not; or run, dataset and
         annotations: the benchmark says what is right and which videos the pool has
Writes   OUT/systems.{json,html,md,csv,tex}   both directions, raw and corrected, with intervals
         OUT/ranks.parquet                    the rank of every query in every row: system, direction, query, rank
         OUT/run.trec, OUT/qrels.trec         the raw matrix for ir-measures and trec_eval

Order counts: row t is the t-th query of the file, column v the t-th video. Ray is not started.

  mgvr evaluate --similarity sim.npy --dataset msrvtt-1ka --annotations MSRVTT_JSFUSION_test.csv --out runs/evaluated
  mgvr evaluate --similarity sim.npy --queries.uri q.jsonl --videos videos.txt --out runs/evaluated \
      --corrections '[{kind: dual_softmax}]'
  mgvr evaluate --run runs/answers/run.trec --qrels runs/answers/qrels.trec --out runs/evaluated
  mgvr evaluate --run run.trec --dataset msrvtt-1ka --annotations MSRVTT_JSFUSION_test.csv --out runs/evaluated
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from mgvr_core.config import LocalPath, Section
from mgvr_core.datasets.queries import QueriesConfig
from mgvr_core.errors import MgvrError
from mgvr_core.evaluation.hubness import CorrectionConfig
from mgvr_core.evaluation.hubs import hubs
from mgvr_core.evaluation.matrix import Matrix, first_columns, open_matrix, require_finite
from mgvr_core.evaluation.report import Manifest
from mgvr_core.evaluation.systems import SystemsReport
from mgvr_core.evaluation.systems_pages import write_systems
from mgvr_core.evaluation.truth import Truth
from mgvr_core.identity import hash_file, hash_json
from pipelines.environment import command_line, hardware, versions
from pipelines.evaluated import shown, shown_as_printed, write_ranks, write_trec
from pipelines.evaluating import RAW, Ranked, printed_of, rank_matrix, rank_run, systems_of
from pipelines.judged import Judged, by_benchmark, by_qrels, by_queries, read_lists, with_lists
from pipelines.runtime import main

_ADVICE = "No figure can be taken of it; --compatible_only true says what the usual scripts make of such a matrix"


class FiguresConfig(Section):
    """What the report shows."""

    title: str | None = Field(None, description="title of the page; none: made of the file's name")
    bootstrap: int = Field(2000, gt=0, description="resamples of the confidence intervals")
    seed: int = Field(0, description="seed of the resamples")


class EvaluateConfig(Section):
    """mgvr evaluate."""

    out: LocalPath | None = Field(None, description="folder of the report; only compatible_only goes without")
    similarity: LocalPath | None = Field(None, description="a .npy file: rows the queries, columns the videos")
    dataset: str | None = Field(None, description="the benchmark whose annotations say which; see mgvr dataset --help")
    annotations: LocalPath | None = Field(None, description="its annotation file, or the folder of them")
    queries: QueriesConfig | None = Field(None, description="or the queries of the rows, with their right videos")
    videos: LocalPath | None = Field(
        None, description="the videos of the columns, in their order: an id a line, or a table with the column id"
    )
    run: LocalPath | None = Field(None, description="a TREC run, in place of a matrix")
    qrels: LocalPath | None = Field(None, description="the right videos of a run's queries, as TREC qrels")
    corrections: tuple[CorrectionConfig, ...] = Field(
        (), description="corrections of hubness, each a row beside the raw scores, labelled by what it has read"
    )
    bank: LocalPath | None = Field(
        None, description="a .npy file (B, V) of training captions and the same videos: QB-Norm reads it, Sinkhorn may"
    )
    top: int = Field(1000, gt=0, description="videos of a query in run.trec")
    compatible_only: bool = Field(
        False, description="print what the usual scripts print, for a matrix with NaN too, and write nothing"
    )
    report: FiguresConfig = FiguresConfig()

    @model_validator(mode="after")
    def _one_input(self) -> EvaluateConfig:
        if (self.similarity is None) == (self.run is None):
            raise ValueError("give either similarity (a matrix) or run (a TREC run)")
        if self.run is not None:
            self._refuse("a run", "queries", "bank", "corrections", "compatible_only", "top")
        else:
            self._refuse("a matrix", "qrels")
        if (self.dataset is None) != (self.annotations is None):
            other = "queries.uri and videos" if self.run is None else "qrels"
            raise ValueError(f"dataset and annotations belong together: give both, or {other}")
        if self.dataset is not None:
            self._refuse("a dataset", "queries", "qrels", "videos")
        elif self.run is not None:
            if self.qrels is None:
                raise ValueError("qrels: a run needs them, or dataset and annotations, to know the right videos")
        elif self.queries is None or self.videos is None:
            raise ValueError(
                "a matrix does not say what it is of: give dataset and annotations, or queries.uri and videos"
            )
        return self

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> EvaluateConfig:
        if self.compatible_only:
            self._refuse("compatible_only", "out", "corrections", "bank", "top")
        elif self.out is None:
            raise ValueError("out: name the folder of the report")
        kinds = {correction.kind for correction in self.corrections}
        if self.bank is None and "qb_norm" in kinds:
            raise ValueError("corrections: QB-Norm reads a bank of training captions: give its matrix with bank")
        if self.bank is not None and not {"qb_norm", "sinkhorn"} & kinds:
            raise ValueError(
                "bank: only the corrections qb_norm and sinkhorn read one; name one of them, or leave it out"
            )
        if len(set(self.corrections)) < len(self.corrections):
            raise ValueError("corrections: the same one twice gives the same row twice: remove it")
        return self

    def _refuse(self, given: str, *names: str) -> None:
        for name in names:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} does nothing with {given}: leave it out")


def evaluate(config: EvaluateConfig) -> SystemsReport | None:
    """Run the job; None where only the usual scripts' figures were asked for.

    Raises MgvrError for files that can't be read, a matrix of another shape than the files say, and a score that is
    not a number.
    """
    if config.run is not None:
        run = Path(config.run)
        lists = read_lists(run)
        if config.dataset is not None and config.annotations is not None:
            judged = with_lists(by_benchmark(config.dataset, Path(config.annotations)), run, lists)
        else:
            judged = by_qrels(Path(config.qrels or ""), run, lists, _path(config.videos))
        return _report(config, judged, rank_run(lists, judged.truth), None)
    judged = _judged(config)
    path = Path(config.similarity or "")
    scores = _matrix_of(judged, path)
    if config.compatible_only:
        found = printed_of(scores, judged.truth)
        if not found:
            raise MgvrError(f"{judged.source}: the usual scripts know one right video a query, and that in the pool")
        print(shown_as_printed(found, judged))
        return None
    truth = judged.truth
    left_out = len(judged.rows) < judged.total
    require_finite(scores, path, truth.queries, truth.videos, _ADVICE, judged.rows if left_out else None)
    bank = None if config.bank is None else _bank_of(Path(config.bank), truth)
    return _report(config, judged, rank_matrix(scores, truth, config.corrections, bank), scores)


def _judged(config: EvaluateConfig) -> Judged:
    if config.dataset is not None and config.annotations is not None:
        return by_benchmark(config.dataset, Path(config.annotations))
    assert config.queries is not None
    assert config.videos is not None
    return by_queries(config.queries, Path(config.videos))


def _matrix_of(judged: Judged, path: Path) -> Matrix:
    """The rows of the queries that have right answers."""
    scores = open_matrix(path)
    expected = (judged.total, len(judged.truth.videos))
    if scores.shape != expected:
        turned = " It looks transposed." if scores.shape == expected[::-1] else ""
        raise MgvrError(
            f"{path} is {scores.shape[0]} x {scores.shape[1]}, but {judged.source} has {expected[0]} queries (rows) "
            f"and {expected[1]} videos (columns).{turned} Both must be those of the files, in "
            "their order. Another pool is given by queries.uri and videos, as mgvr dataset writes them"
        )
    return scores if len(judged.rows) == judged.total else scores[list(judged.rows)]


def _bank_of(path: Path, truth: Truth) -> Matrix:
    bank = open_matrix(path)
    if bank.shape[1] != len(truth.videos):
        raise MgvrError(
            f"{path} has {bank.shape[1]} columns, but the pool has {len(truth.videos)} videos: a bank is of training "
            "captions (rows) and the very same videos (columns)"
        )
    captions = [f"training caption {row}" for row in range(len(bank))]
    require_finite(bank, path, captions, truth.videos, "Nothing can be corrected by it")
    return bank


def _report(config: EvaluateConfig, judged: Judged, rows: list[Ranked], scores: Matrix | None) -> SystemsReport:
    assert config.out is not None
    truth, out = judged.truth, Path(config.out)
    clusters = any(row.clusters is not None for row in rows)
    systems = systems_of(rows, config.report.bootstrap, config.report.seed)
    files = {"ranks.parquet": "the rank of every query in every row"}
    if scores is not None:
        files["run.trec"] = f"the raw matrix as a TREC run, the first {config.top:,} videos of each query"
        files["qrels.trec"] = "the right answers as TREC qrels"
    report = SystemsReport(
        title=config.report.title or f"{judged.title}: {Path(config.similarity or config.run or '').name}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        systems=tuple(systems),
        manifest=_manifest(config, judged),
        protocol=judged.protocol,
        baseline=RAW if len(systems) > 1 else "",
        warnings=judged.warnings,
        hubs=() if scores is None else tuple(_hubs(scores, truth)),
        resamples=config.report.bootstrap,
        interval_unit="group" if clusters else "query",
        files=files,
    )
    write_ranks(rows, out / "ranks.parquet")
    if scores is not None:
        write_trec(scores, truth, config.top, out)
    pages = write_systems(report, out)
    print(shown(report, pages["systems.html"]))
    return report


def _manifest(config: EvaluateConfig, judged: Judged) -> Manifest:
    truth = judged.truth
    read = [Path(name) for name in (config.similarity, config.run, config.bank) if name is not None]
    return Manifest(
        command=command_line(),
        configuration=config.model_dump(mode="json"),
        fingerprints={
            **{str(path): hash_file(path) for path in (*read, *judged.files)},
            "queries, pool and right answers": hash_json([truth.queries, truth.videos, truth.relevant]),
        },
        versions=versions(),
        hardware=hardware(),
        seed=config.report.seed,
    )


def _hubs(scores: Matrix, truth: Truth) -> Iterator[tuple[str, str, int, int]]:
    right = np.array([len(truth.captions.get(column, ())) for column in range(len(truth.videos))])
    for video, first, times in hubs(first_columns(scores), right):
        yield RAW, truth.videos[video], first, times


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code."""
    return main(EvaluateConfig, evaluate, "mgvr evaluate", __doc__, argv)


if __name__ == "__main__":
    sys.exit(run())
