"""TorchScript archives, the form in which OpenAI published CLIP, read as data.

torch's own reader runs code of the archive: a class with a `__setstate__` can write any file while it is being loaded.
Here the archive is what it is on disk, a zip file with a pickle of nested modules and one record a storage, and nothing
but these is built from it.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgvr_core.errors import MgvrError

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: torch's other zip files have no record `constants.pkl`."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of an archive by their dotted names; raises MgvrError where it is damaged or holds anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            module = _Unpickler(archive).load()
        return dict(_tensors(module))
    except Exception as error:  # a pickle that was damaged or made to harm raises a dozen kinds
        raise MgvrError(f"{path} is not a TorchScript archive that can be read as plain weights: {error}") from error


class _Module:
    """Stands for every class of the archive: its attributes, and none of its code."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a class in it sets its own state, which takes running its code")
        self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._folder = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix(".pkl")
        self._storages: dict[str, Tensor] = {}
        super().__init__(BytesIO(archive.read(f"{self._folder}.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        """The only things that the pickle may name."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch.jit._pickle":
            return _first  # lists and dictionaries with a note of their type
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage as a flat tensor: pid is ("storage", dtype, record, device, length)."""
        _, dtype, record, _, _ = pid
        if record not in self._storages:
            content = bytearray(self._archive.read(f"{self._folder}/{record}"))
            self._storages[record] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self._storages[record]


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    return storage.as_strided(size, stride, offset)  # checks that it stays inside the storage


def _first(value: object, *_: object) -> object:
    return value


def _tensors(module: _Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
