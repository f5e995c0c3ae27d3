"""What every job shares: starting Ray, exit codes, and the record of a run."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from pydantic import Field
from ray._private import ray_constants
from ray.data import DataContext
from ray.exceptions import RayError

from mgvr_core.config import ConfigT, Section
from mgvr_core.errors import JobError, MgvrError
from pipelines.options import read_options

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; the job failed; the input or the configuration was refused before any work; Ctrl-C."""


class RayConfig(Section):
    """Where the job runs."""

    address: str | None = Field(
        None, description="an existing cluster, e.g. auto; none: the cluster of the job, or a local one for this run"
    )
    cpus: int | None = Field(None, gt=0, description="logical CPUs of a local cluster; none: its cores, and at least 4")
    worker_logs: bool = Field(False, description="print what the workers print; it is in Ray's log folder anyway")
    stall_s: int = Field(1800, gt=0, description="seconds without any progress after which the job gives up")

    def starts_here(self) -> bool:
        """Whether the job starts a local cluster for itself."""
        return self.address is None and "RAY_ADDRESS" not in os.environ and not ray.is_initialized()


def main(
    kind: type[ConfigT], job: Callable[[ConfigT], object], program: str, guide: str | None, argv: Sequence[str] | None
) -> int:
    """Run a job from the command line; returns the exit code. Refused input prints its message and no traceback."""
    try:
        job(read_options(kind, program, guide, sys.argv[1:] if argv is None else argv))
    except RayError as error:  # first, because Ray gives a worker's MgvrError both types
        print(f"{program}: failed in a worker:\n{error}", file=sys.stderr)
        return FAILED
    except MgvrError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return FAILED if isinstance(error, JobError) else BAD_INPUT
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; the same command goes on from what is done", file=sys.stderr)
        return INTERRUPTED
    return OK


@contextmanager
def cluster(config: RayConfig) -> Iterator[None]:
    """A Ray connection for a job; a local cluster started here ends here.

    Inside `ray job submit`, and in a program that has connected already, that connection is used as it is.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A driver started by `uv run` would make every worker run under it too.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    if config.starts_here():
        # More logical CPUs than cores on a small machine: the stages of one pipeline must all find a place, and
        # how many threads they use is set by the stages themselves.
        cpus = config.cpus or max(4, available_cores())
        # Unset, Ray writes a token to the home folder that later clusters trip over; nothing but loopback listens here.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        # Loopback only. On Linux Ray would listen on every interface, and has no public switch for it.
        ray_constants.ENABLE_RAY_CLUSTER = False
        # Ray 2.60's core warns of its own libraries' actors at every start; what matters here is raised.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=config.worker_logs,
            logging_level=logging.WARNING,
        )
    else:
        try:
            ray.init(address=config.address, log_to_driver=config.worker_logs, logging_level=logging.WARNING)
        except ConnectionError as error:
            raise MgvrError(
                f"no Ray cluster answers at {config.address or os.environ['RAY_ADDRESS']}: {error}. Start one with "
                "`ray start --head`, or leave ray.address out for a local one."
            ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False  # the jobs print their own line
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = config.stall_s
    try:
        yield
    finally:
        ray.shutdown()


def available_cores() -> int:
    """Cores that this process may use: a container or a scheduler may grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cluster_cpus() -> int:
    """Logical CPUs of the connected cluster."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]


class Stopwatch:
    """Seconds by stage, in the order of their first use."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def summary(title: str, rows: dict[str, Any]) -> str:
    """A job's closing lines, aligned."""
    width = max(len(name) for name in rows)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])
