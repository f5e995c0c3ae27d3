"""Which scorers there are: every module of this folder that has a `SCORER`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

import torch

from mgvr_core import scorers
from mgvr_core.config import suggest
from mgvr_core.errors import MgvrError
from mgvr_core.scorers.scorer import AnyScorer, Setting, Sizes


@cache
def catalogue() -> dict[str, type[AnyScorer]]:
    """Name -> scorer, by name."""
    modules = {
        found.name: importlib.import_module(f"{scorers.__name__}.{found.name}")
        for found in pkgutil.iter_modules(scorers.__path__)
    }
    return {name: module.SCORER for name, module in sorted(modules.items()) if hasattr(module, "SCORER")}


def find(name: str) -> type[AnyScorer]:
    """The scorer of that name; raises MgvrError where there is none."""
    known = catalogue()
    if name not in known:
        raise MgvrError(
            f"there is no scorer {name!r}{suggest(name, list(known)) or '.'} It is one of: {', '.join(known)}"
        )
    return known[name]


@cache
def is_learned(name: str) -> bool:
    """Whether a scorer has weights of its own, which must be trained."""
    sizes = Sizes(frames=2, patches=4, dim=64, words=4)
    return find(name)(Setting(sizes, torch.eye(sizes.dim))).learned
