"""What a run ran on and with: for its manifest."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import mgvr_core
from mgvr_core.identity import hash_file, hash_json

_VERSIONS = ("mgvr", "torch", "open_clip_torch", "ray", "pyarrow", "av", "decord", "faiss-cpu", "numpy")
_ROOMS = ("features", "model", "retrieval", "scorers", "scoring", "training")
_COMPUTING = ("mgvr", "torch", "open_clip_torch", "faiss-cpu", "numpy")


def versions() -> dict[str, str]:
    """Versions of everything that can change a result; absent packages are left out."""
    found = {"python": platform.python_version()}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if commit := _git_commit():
        found["commit"] = commit
    return found


def computing_versions() -> dict[str, str]:
    """Of what may change a number when a set of features is searched."""
    return {name: version for name, version in versions().items() if name in _COMPUTING}


@cache
def computing_source() -> str:
    """Hash of the code that makes a number of stored features: what has changed under one version is another."""
    root = Path(mgvr_core.__file__).parent
    files = sorted(file for room in _ROOMS for file in (root / room).rglob("*.py"))
    return hash_json([[file.relative_to(root).as_posix(), hash_file(file)] for file in files])[:16]


def hardware() -> dict[str, str]:
    """The machine the driver ran on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": f"{os.cpu_count()} × {platform.processor() or platform.machine()}",
        "memory": f"{memory:.0f} GiB",
        "gpu": gpu,
        "system": platform.system(),
    }


def command_line() -> str:
    """The command that was given, as one would type it."""
    program = Path(sys.argv[0]).name
    return shlex.join([program, *sys.argv[1:]])


def _git_commit() -> str | None:
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
            timeout=10,
            check=False,
        )
    except OSError:
        return None
    return result.stdout.strip() or None
