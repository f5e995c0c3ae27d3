"""Weight files read as data: safetensors, restricted pickles and TorchScript archives, never code."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.model.torchscript import is_torchscript, read_torchscript

_OPENAI_BUFFERS = ("input_resolution", "context_length", "vocab_size")
"""Bookkeeping entries that OpenAI's own archives keep among the weights."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU.

    A checkpoint's `state_dict` or `model` entry is opened, and the `module.` prefix of distributed training removed.
    Raises MgvrError for a file that is missing, damaged, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise MgvrError(f"there is no weights file {path}")
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    for inner in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(inner), dict):
            content = content[inner]
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise MgvrError(f"{path} holds no mapping of names to tensors; give the file with the model's state_dict")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def is_openai_archive(weights: dict[str, Tensor]) -> bool:
    """Whether the weights came from one of OpenAI's own CLIP archives, which were trained with QuickGELU."""
    return all(name in weights for name in _OPENAI_BUFFERS)


def without_bookkeeping(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights alone."""
    return {name: tensor for name, tensor in weights.items() if name not in _OPENAI_BUFFERS}


def _load_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise MgvrError(f"{path} is not a readable safetensors file: {error}") from error


def _load_torch(path: Path) -> object:
    if is_torchscript(path):  # torch.load would hand it to a reader that runs the archive's code
        return read_torchscript(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises a dozen kinds
        # Not torch's own words for a pickle: they advise to load the file without the restriction.
        pickled = isinstance(error, pickle.UnpicklingError)
        forbidden = re.search(r"GLOBAL (\S+)", str(error)) if pickled else None
        if forbidden is None:
            detail = "it is damaged, or of another format" if pickled else f"{type(error).__name__} {error}"
            raise MgvrError(f"{path} is not a readable weights file: {detail}") from error
        raise MgvrError(
            f"{path} is a pickle that holds more than tensors ({forbidden[1]}), and running it could run anything. "
            "Load it once where you trust it, and save its state_dict with safetensors."
        ) from error
