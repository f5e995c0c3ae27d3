"""Checkpoints of a scorer's training: one an epoch, from which a run that was killed goes on as if it had not been.

CHECKPOINTS/step-00000120/
    head.safetensors, head.json   a head like any other (see `head_files`)
    optimiser.safetensors         Adam's running means, by the names of the weights
    state.json                    steps taken, what was measured after each epoch

Nothing is drawn at random but the order of the pairs, which is a function of the epoch. `state` knows the folder's
names: a checkpoint is written beside its place and then renamed. Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

import torch
from safetensors.torch import save_file
from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.files import sync
from mgvr_core.identity import Fingerprint
from mgvr_core.model.weights import read_weights
from mgvr_core.scorers.scorer import Scorer
from mgvr_core.training import state
from mgvr_core.training.head_files import WEIGHTS, fill, save_head
from mgvr_core.training.state import OPTIMISER, STATE, Progress


def save(
    folder: Path,
    name: str,
    scorer: Scorer,
    optimiser: torch.optim.Optimizer,
    made_by: Fingerprint,
    progress: Progress,
    run: str,
) -> Path:
    """Write the checkpoint of `progress.step` below `folder`; returns its place. `run` is the run's fingerprint."""
    final = state.path_of(folder, progress.step)
    new = folder / f".{final.name}.{uuid4().hex}"
    save_head(new, name, scorer, made_by, {"run": run})
    names: dict[Tensor, str] = {parameter: name for name, parameter in scorer.named_parameters()}
    tensors = {
        f"{names[parameter]}:{key}": value.detach().cpu().contiguous()
        for parameter, values in optimiser.state.items()
        for key, value in values.items()
    }
    save_file(tensors, new / OPTIMISER)
    (new / STATE).write_text(json.dumps({"run": run, **asdict(progress)}, allow_nan=False), encoding="utf-8")
    for file in new.iterdir():
        sync(file)
    if final.exists():  # of an earlier attempt at this step, which could not be read
        shutil.rmtree(final)
    new.replace(final)
    sync(folder)
    return final


def load(path: Path, scorer: Scorer, optimiser: torch.optim.Optimizer, run: str) -> Progress:
    """Put a checkpoint into a scorer and its optimiser; returns where the training stood.

    Raises MgvrError, with what to do, where it can't be read or belongs to another run.
    """
    with state.resumed(path) as document:
        if document["run"] != run:
            raise MgvrError(f"it belongs to another run, {document['run']}, not {run}")
        fill(scorer, read_weights(path / WEIGHTS))
        _fill_optimiser(scorer, optimiser, read_weights(path / OPTIMISER))
        return Progress(document["step"], document["sums"], tuple(document["history"]))


def _fill_optimiser(scorer: Scorer, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(scorer.named_parameters())
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition(":")
        parameter = parameters[owner]
        # Adam keeps its count of steps on the CPU, whatever the device.
        optimiser.state[parameter][key] = tensor if key == "step" else tensor.to(parameter.device)
