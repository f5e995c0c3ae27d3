"""What several test modules share: the reference material beside the checkout, and one Ray cluster."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports ray, and inherited by every process that a test starts.
os.environ.update(
    RAY_AUTH_MODE="disabled",  # nothing but loopback listens; unset, Ray writes a token file into the home folder
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",  # under `uv run pytest` the workers would start under `uv run` too
    # On Linux, too, this switch is what makes a local Ray listen on loopback alone, not on every interface.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside the checkout; not part of the project, so a clone may be without it."""
    folder = (Path(__file__).resolve().parents[1] / ".." / "shared").resolve()
    if not folder.is_dir():
        pytest.skip("the reference material, ../shared, is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray on loopback for the whole session: starting one takes seconds, and each holds close to 1 GB."""
    import ray

    # Ray's sockets lie below it, and the path of a socket has 107 bytes at most: pytest's own tmp_path is too long.
    folder = tempfile.mkdtemp(prefix="ray-")
    # More CPUs than a small machine has: an actor pool that holds them all would leave none for the read before it.
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
