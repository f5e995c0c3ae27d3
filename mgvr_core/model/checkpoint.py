"""The project's own checkpoint: a folder with the weights as safetensors and everything else as JSON.

model.safetensors   the weights, by this model's names
config.json         {"format": 1, "model": ModelSpec, "about": {...}}: `about` belongs to who wrote the checkpoint
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mgvr_core import config
from mgvr_core.errors import MgvrError
from mgvr_core.identity import hash_arrays
from mgvr_core.model.eercf import EERCF
from mgvr_core.model.spec import ModelSpec
from mgvr_core.model.weights import read_weights

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model with what is known about it."""

    model: EERCF
    source: str
    """Where the weights came from, in words for a reader."""
    about: dict[str, Any] = field(default_factory=dict)
    """What its maker recorded: frame sampling, fusion weights, how it was trained."""
    notes: tuple[str, ...] = ()
    """What a reader of its results should know."""


def save(folder: Path, model: EERCF, about: dict[str, Any]) -> None:
    """Write a checkpoint; a reader finds the old one, none, or the new one, never parts of both."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    document = {"format": FORMAT, "model": model.spec.model_dump(mode="json"), "about": about}
    new_weights, new_config = (folder / f".{name}.{os.getpid()}" for name in (WEIGHTS, CONFIG))
    new_config.write_text(json.dumps(document, indent=2, allow_nan=False), encoding="utf-8")
    save_file(weights, new_weights)
    (folder / CONFIG).unlink(missing_ok=True)
    new_weights.replace(folder / WEIGHTS)
    new_config.replace(folder / CONFIG)


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint folder; raises MgvrError where it is incomplete, newer than this program, or does not fit."""
    try:
        document = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MgvrError(f"{folder} is not a checkpoint of mgvr train: {CONFIG} can't be read ({error})") from None
    if document.get("format") != FORMAT:
        raise MgvrError(
            f"{folder} has checkpoint format {document.get('format')!r}, this program reads {FORMAT}: "
            "use the version of mgvr that wrote it, or a newer one"
        )
    spec = config.parse(ModelSpec, document["model"], source=str(folder / CONFIG))
    model = EERCF(spec)
    fill(model, read_weights(folder / WEIGHTS), str(folder))
    return Checkpoint(model.eval(), source=str(folder), about=document["about"])


def fill(model: EERCF, weights: dict[str, Tensor], source: str) -> None:
    """Put weights into a model; raises MgvrError that names what is missing, left over or of another shape."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise MgvrError(f"the weights of {source} do not fit the model: {error}") from error


def weights_hash(model: EERCF) -> str:
    """SHA-256 over all weights and buffers in fp32: one changed bit of one weight changes it."""
    with torch.no_grad():
        return hash_arrays((name, tensor.float().cpu().numpy()) for name, tensor in model.state_dict().items())
