"""Trainings that differ in one thing each, on several seeds, as one table.

Reads    a sweep file: `base`, what all trainings share (keys of mgvr train); `rows`, a name and the keys that it sets;
         `seeds`; and `procedural`, if the corpus of mgvr demo is to be made for it
Writes   OUT/sweep.md, sweep.json    the table: R@1 on the test split of every score and of the two-stage search, means
                                     over seeds, 95 % intervals over videos, paired gains from row to row
         OUT/cells/ROW-SEED/         each training, as mgvr train leaves it
         OUT/corpus/, OUT/clips/     what they share

A training that is done is not done again, and one that was killed goes on: run the same command.

  mgvr sweep jobs/sweeps/ablation.yaml
  mgvr sweep jobs/sweeps/ablation.yaml --seeds 0 --out runs/one-seed
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
from pydantic import Field, model_validator
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mgvr_core.config import LocalPath, Section, assign, parse
from mgvr_core.datasets.scenes import ProceduralConfig
from mgvr_core.errors import JobError, MgvrError
from mgvr_core.evaluation.ablation import Line, markdown, tabulate
from mgvr_core.files import replacing
from mgvr_core.identity import hash_file, hash_json
from pipelines import starting
from pipelines.environment import command_line, versions
from pipelines.finishing import TEST_FILE, Ranks, read_ranks
from pipelines.making import make_corpus
from pipelines.progress import progress
from pipelines.runtime import RayConfig, available_cores, cluster, main, summary
from pipelines.train import train
from pipelines.train_options import TrainConfig

_PLACES = {"out", "ray", "workers", "memory", "checkpoints", "restart", "compute", "clips"}
_CORPORA = {"corpus", "validation", "test"}
"""Settings of a training that say where and how it runs, and where its data lies."""
_SYSTEMS = ("video", "frame_weak", "tib_frame", "patch_weak", "tib_patch")


class RowConfig(Section):
    """One row of the table."""

    name: str
    set: dict[str, Any] = Field(default_factory=dict, description="keys of mgvr train, with dots, and their values")
    against: str | None = None
    """The row that the gain is over; none: the one above."""


class SweepConfig(Section):
    """mgvr sweep."""

    out: LocalPath = Field(description="folder of the sweep")
    procedural: ProceduralConfig | None = Field(
        None, description="make this procedural corpus and train, validate and test on its splits"
    )
    base: dict[str, Any] = Field(description="what all trainings share: keys of mgvr train, nested as in its own file")
    rows: tuple[RowConfig, ...] = Field(min_length=1, description="the rows of the table")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="each row is trained on every seed")
    parallel: int = Field(1, gt=0, description="trainings at once; they share the machine's threads")
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _named_apart(self) -> SweepConfig:
        names = [row.name for row in self.rows]
        if len({_slug(name) for name in names}) < len(names):
            raise ValueError(f"rows need names that differ in letters or digits: {names}")
        for row in self.rows:
            if row.against is not None and row.against not in names:
                raise ValueError(f"row {row.name}: there is no row {row.against} to compare it with")
        return self


@dataclass(frozen=True)
class Cell:
    """One training."""

    row: str
    config: TrainConfig
    made_of: str
    """Hash of the corpus that is made for the sweep, or of the manifests."""

    @property
    def out(self) -> Path:
        """Its folder."""
        return Path(self.config.out)

    @property
    def digest(self) -> str:
        """Tells whether what is there was trained so: settings and captions, but not where it ran and where it lies.

        Of the videos themselves `mgvr train` knows, and begins again where they have changed; it is not asked where
        this says that all is done.
        """
        values = self.config.model_dump(mode="json", exclude=_PLACES | _CORPORA)
        return hash_json([values, self.made_of])

    def is_done(self) -> bool:
        """Whether it has been trained and measured."""
        mark = self.out / "cell.json"
        return mark.exists() and json.loads(mark.read_text(encoding="utf-8"))["digest"] == self.digest


def sweep(config: SweepConfig) -> list[Line]:
    """Train what is missing and make the table; raises MgvrError before Ray starts for a row that is not valid.

    Raises JobError at the end where a training failed; the others are done then, and kept.
    """
    began = time.monotonic()
    out = Path(config.out).absolute()
    cells = cells_of(config)
    waiting = [cell for cell in cells if not cell.is_done()]
    failures: dict[str, str] = {}
    if waiting:
        with cluster(config.ray):
            if config.procedural is not None:
                make_corpus(out / "corpus", config.procedural)
            plans = [starting.plan(cell.config) for cell in waiting]  # before the first of them takes its hours
            starting.prepare(waiting[0].config, plans[0])  # clips, once for all
            failures = _run(waiting, config.parallel)
    if failures:
        raise JobError("\n".join([f"{len(failures)} of {len(cells)} trainings failed:", *failures.values()]))
    lines = _table(config, cells)
    _write(config, lines, out)
    print(markdown(lines, _SYSTEMS))
    rows = {
        "trainings": f"{len(cells)}, of which {len(cells) - len(waiting)} were there already",
        "time": f"{time.monotonic() - began:.0f} s",
        "table": str(out / "sweep.md"),
    }
    print(summary("sweep: done", rows))
    return lines


def cells_of(config: SweepConfig) -> list[Cell]:
    """Every row on every seed; raises MgvrError for a row whose settings are not valid."""
    out = Path(config.out).absolute()
    return [_cell(config, row, seed, out) for row in config.rows for seed in config.seeds]


def _cell(config: SweepConfig, row: RowConfig, seed: int, out: Path) -> Cell:
    values = json.loads(json.dumps(config.base))
    if taken := sorted(values.keys() & {"out", "seed", "restart", "ray"}):
        raise MgvrError(f"base: {', '.join(taken)} is set by the sweep itself: remove it")
    corpora = {"corpus": "train", "validation": "validation", "test": "test"}
    defaults: dict[str, Any] = {"clips.folder": str(out / "clips")}
    if config.procedural is not None:
        defaults |= {f"{key}.uri": str(out / "corpus" / f"{split}.jsonl") for key, split in corpora.items()}
    chosen = {"seed": seed, "model.seed": seed, "restart": "changed", "out": str(out / "cells" / _cell_name(row, seed))}
    defaults["compute.threads"] = max(1, available_cores() // config.parallel)
    given = {name for name, _ in _leaves(values)}
    for dotted, value in {**{k: v for k, v in defaults.items() if k not in given}, **row.set, **chosen}.items():
        try:
            assign(values, dotted, value)
        except MgvrError as error:
            raise MgvrError(f"row {row.name!r} of the sweep: {error}") from None
    train_config = parse(TrainConfig, values, source=f"row {row.name!r} of the sweep")
    cell = Cell(row.name, train_config, _made_of(config, train_config))
    if cell.config.test is None:
        raise MgvrError(f"row {row.name!r}: a sweep measures on a test split: give base.test.uri")
    return cell


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _made_of(config: SweepConfig, cell: TrainConfig) -> str:
    if config.procedural is not None:
        return hash_json(config.procedural.model_dump(mode="json"))
    files = [Path(corpus.uri) for corpus in (cell.corpus, cell.validation, cell.test) if corpus is not None]
    return hash_json([hash_file(file) if file.is_file() else str(file) for file in files])


def _run(cells: Sequence[Cell], parallel: int) -> dict[str, str]:
    """Train cells, some at once; returns the failures by folder."""
    failures: dict[str, str] = {}
    running: dict[Any, Cell] = {}
    # On the driver's own machine: what a configuration leaves open (a device) is decided by where it is read.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    train_here = _train.options(scheduling_strategy=here)
    queue = list(cells)
    with progress("sweep", len(cells), "trainings") as counter:
        while queue or running:
            while queue and len(running) < parallel:
                cell = queue.pop(0)
                running[train_here.remote(cell.config, cell.digest, sys.argv)] = cell
            (done,), _ = ray.wait(list(running))
            cell = running.pop(done)
            try:
                ray.get(done)
                counter.add.remote("trainings", 1)
            except RayError as error:
                failures[str(cell.out)] = f"{cell.out}: {str(error).strip().splitlines()[-1]}"
                counter.add.remote("failed", 1)
    return failures


@ray.remote(num_cpus=0, max_retries=0)
def _train(config: TrainConfig, digest: str, command: list[str]) -> None:
    sys.argv = command  # reports say what the user typed
    (Path(config.out) / "cell.json").unlink(missing_ok=True)
    train(config)
    with replacing(Path(config.out) / "cell.json") as file:
        json.dump({"digest": digest}, file)


def _table(config: SweepConfig, cells: Sequence[Cell]) -> list[Line]:
    ranks: dict[str, list[Ranks]] = {}
    videos: list[str] = []
    for cell in cells:
        file = cell.out / TEST_FILE
        ranks.setdefault(cell.row, []).append(read_ranks(file))
        found = pq.read_table(file, columns=["video"])["video"].to_pylist()
        if videos and videos != found:
            raise MgvrError(f"{cell.out} was tested on other videos than the first: all rows need the same test split")
        videos = found
    names = [row.name for row in config.rows]
    above = dict(zip(names[1:], names, strict=False))
    return tabulate(ranks, videos, {**above, **{row.name: row.against for row in config.rows if row.against}})


def _write(config: SweepConfig, lines: Sequence[Line], out: Path) -> None:
    with replacing(out / "sweep.md") as file:
        file.write(markdown(lines, _SYSTEMS))
    document = {
        "command": command_line(),
        "configuration": config.model_dump(mode="json"),
        "versions": versions(),
        "rows": [asdict(line) for line in lines],
    }
    with replacing(out / "sweep.json") as file:
        json.dump(document, file, indent=1)


def _cell_name(row: RowConfig, seed: int) -> str:
    return f"{_slug(row.name)}-{seed}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code."""
    return main(SweepConfig, sweep, "mgvr sweep", __doc__, argv)


if __name__ == "__main__":
    sys.exit(run())
