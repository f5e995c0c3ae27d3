"""What several test modules share: the reference material beside the checkout, one Ray cluster, an object store."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

# Their asserts, too, then say what they saw.
pytest.register_assert_rewrite("corpus_command", "feature_sets", "pages")

# Ours from the start, but nobody listens until a test asks for `s3`.
S3 = socket.socket()
S3.bind(("127.0.0.1", 0))

# Before anything imports ray, and inherited by every process that a test starts.
os.environ.update(
    RAY_AUTH_MODE="disabled",  # nothing but loopback listens; unset, Ray writes a token file into the home folder
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",  # under `uv run pytest` the workers would start under `uv run` too
    # On Linux, too, this switch is what makes a local Ray listen on loopback alone, not on every interface.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    # All that a client of S3 needs, so that a Ray worker that was there before the test finds the same; and nothing of
    # the developer's: no test can reach a bucket of theirs.
    AWS_ENDPOINT_URL=f"http://127.0.0.1:{S3.getsockname()[1]}",
    AWS_ACCESS_KEY_ID="test",
    AWS_SECRET_ACCESS_KEY="test",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_CONFIG_FILE=os.devnull,
    AWS_SHARED_CREDENTIALS_FILE=os.devnull,
    AWS_EC2_METADATA_DISABLED="true",
)
for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
    os.environ.pop(name, None)


WITHOUT_RAY = (
    "compare",
    "dataset",
    "decoding",
    "encode_refusals",
    "evaluate",
    "evaluate_runs",
    "options",
    "rows",
    "scorers",
    "work",
)
"""Modules of tests/pipelines that never start it."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run side by side, all that use Ray run in one process: two Rays would starve each other."""
    from xdist.scheduler import LoadScopeScheduling

    class RayTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder, _, module = nodeid.partition("::")[0].rpartition("/")
            name = module.removeprefix("test_").removesuffix(".py")
            return "ray" if folder.endswith("pipelines") and name not in WITHOUT_RAY else f"{folder}/{name}"

    return RayTogether(config, log)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside the checkout; not part of the project, so a clone may be without it."""
    folder = (Path(__file__).resolve().parents[1] / ".." / "shared").resolve()
    if not folder.is_dir():
        pytest.skip("the reference material, ../shared, is not beside this checkout")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """At the sizes of a test, threads wait for each other more than they work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[None]:
    """S3 on loopback, at the address in the environment."""
    from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Silent(MotoRequestHandler):
        def log(self, *_: Any) -> None:
            pass

    # One request at a time: moto looks whether a key is there and then writes it, which S3 does in one step.
    turn = threading.Lock()
    application = DomainDispatcherApplication(create_backend_app)

    def serve(environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        with turn:
            return list(application(environ, respond))

    S3.listen(128)
    server = make_server(*S3.getsockname(), serve, threaded=True, request_handler=Silent, fd=S3.fileno())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def s3(s3_server: None) -> str:
    """The address of a bucket of the test's own, `s3://NAME`, for s3fs, boto3 and the processes that a test starts."""
    import boto3

    name = f"bucket-{uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"
