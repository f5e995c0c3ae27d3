"""A training's checkpoints: all that the next step needs, so that a run that was killed goes on as if it had not been.

CHECKPOINTS/step-00000120/
    model.safetensors, config.json   a checkpoint like any other: encode and retrieve take it
    optimiser.safetensors            AdamW's running means by the names of the weights, and the states of the random
                                     number generators
    state.json                       steps taken, sums of the epoch's losses so far, what validation measured

The learning rate and the order of the pairs are functions of the step, so the step is all that is kept of them. A
folder of this name is whole: it is written beside its place and then renamed. Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors.torch import save_file
from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.files import sync
from mgvr_core.model import checkpoint
from mgvr_core.model.eercf import EERCF
from mgvr_core.model.weights import read_weights

FORMAT = 1
OPTIMISER, STATE = "optimiser.safetensors", "state.json"
_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Progress:
    """Where a training stands."""

    step: int = 0
    """Steps taken."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the epoch that is under way: its losses and times so far, added up."""
    history: tuple[dict[str, Any], ...] = ()
    """What validation measured after each epoch: `step`, `epoch` and the figures."""


def save(
    folder: Path, model: EERCF, optimiser: torch.optim.Optimizer, progress: Progress, about: dict[str, Any]
) -> Path:
    """Write the checkpoint of `progress.step` below `folder`; returns its place."""
    final = folder / f"step-{progress.step:08d}"
    new = folder / f".{final.name}.{uuid4().hex}"
    checkpoint.save(new, model, about)
    save_file(_optimiser_tensors(model, optimiser), new / OPTIMISER)
    document = {"format": FORMAT, "run": about.get("run"), **asdict(progress)}
    (new / STATE).write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
    for file in new.iterdir():
        sync(file)
    if final.exists():  # of an earlier attempt at this step, which could not be read
        shutil.rmtree(final)
    new.replace(final)
    sync(folder)
    return final


def load(path: Path, model: EERCF, optimiser: torch.optim.Optimizer, run: str | None) -> Progress:
    """Put a checkpoint into a model and its optimiser, generators included; returns where the training stood.

    Raises MgvrError, with what to do, where it can't be read or belongs to another run (by `about["run"]` of `save`),
    model or optimiser.
    """
    with resumed(path) as document:
        if document.pop("format") != FORMAT:
            raise MgvrError(f"it was written by another version of mgvr, this one reads format {FORMAT}")
        if document["run"] != run:
            raise MgvrError(f"it belongs to another run, {document['run']}, not {run}")
        checkpoint.fill(model, read_weights(path / checkpoint.WEIGHTS), str(path))
        _fill_optimiser(model, optimiser, read_weights(path / OPTIMISER))
        return Progress(document["step"], document["sums"], tuple(document["history"]))


@contextmanager
def resumed(path: Path) -> Iterator[dict[str, Any]]:
    """What a checkpoint's state.json holds, for as long as the rest is read.

    Raises MgvrError, with what to do, where that file can't be read or something within the `with` fails.
    """
    try:
        yield json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, MgvrError) as error:
        raise MgvrError(
            f"the training can't go on from {path}: {error}. Remove that folder to go on from the checkpoint before "
            "it, or begin again with --restart yes"
        ) from error


def history(path: Path) -> list[dict[str, Any]]:
    """What validation measured after each epoch, up to a checkpoint."""
    return list(json.loads((path / STATE).read_text(encoding="utf-8"))["history"])


def steps(folder: Path) -> list[int]:
    """The steps of which there is a checkpoint, in their order."""
    if not folder.is_dir():
        return []
    return sorted(int(found[1]) for path in folder.iterdir() if (found := _NAME.fullmatch(path.name)))


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def best(history: Sequence[dict[str, Any]], metric: str, count: int) -> list[int]:
    """The steps of the `count` highest figures of a metric, best first; of equal ones the earlier."""
    measured = [row for row in history if metric in row]
    return [row["step"] for row in sorted(measured, key=lambda row: (-row[metric], row["step"]))[:count]]


def prune(folder: Path, keep: Sequence[int]) -> None:
    """Remove all checkpoints but those of `keep` and the last, and what was left half-written."""
    for step in steps(folder)[:-1]:
        if step not in keep:
            shutil.rmtree(path_of(folder, step), ignore_errors=True)
    last = max(steps(folder), default=0)
    for path in folder.glob(".step-*"):
        # Not what another run into this folder may be writing just now.
        if int(path.name.split(".")[1].removeprefix("step-")) <= last:
            shutil.rmtree(path, ignore_errors=True)


def _optimiser_tensors(model: EERCF, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {
        f"{names[parameter]}:{key}": value.detach().cpu().contiguous()
        for parameter, values in optimiser.state.items()
        for key, value in values.items()
    }
    tensors["rng:cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng:cuda"] = torch.cuda.get_rng_state()
    return tensors


def _fill_optimiser(model: EERCF, optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors.pop("rng:cpu"))
    cuda = tensors.pop("rng:cuda", None)
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    parameters = dict(model.named_parameters())
    trained = {parameter for group in optimiser.param_groups for parameter in group["params"]}
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition(":")
        parameter = parameters.get(owner)
        if parameter is None or parameter not in trained:
            raise MgvrError(f"its optimiser knows a weight {owner}, which is not trained here")
        if key != "step" and tensor.shape != parameter.shape:
            raise MgvrError(f"its optimiser knows {owner} as {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
        # AdamW keeps its count of steps on the CPU, whatever the device.
        optimiser.state[parameter][key] = tensor if key == "step" else tensor.to(parameter.device)
