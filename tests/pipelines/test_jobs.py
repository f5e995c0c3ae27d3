"""The jobs on a cluster, as `ray job submit` runs them: a head of this test's own, and jobs/*.yaml as they are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from mgvr_core.features.store import FeatureStore
from mgvr_core.model.load import ModelConfig

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 180


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for held in sockets:
        held.bind(("127.0.0.1", 0))
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a running head's job port. It ends with its process group: `ray stop` would end everybody's."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short, for the sockets below it
    names = ["port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "metrics-export-port"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]])}
    # It would have the head wait for its own kind of cluster; loopback is asked for below.
    environment.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)
    options = ["--head", "--block", "--num-cpus=4", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    options += [f"--temp-dir={folder}", *(f"--{name}={port}" for name, port in ports.items())]
    with (Path(folder) / "head.log").open("wb") as log:
        process = subprocess.Popen(
            [str(Path(bin_folder) / "ray"), "start", *options],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not answers(address):
            assert process.poll() is None, (Path(folder) / "head.log").read_text()
            assert time.monotonic() < deadline, "the head's job port does not open"
            time.sleep(0.5)
        yield address
    finally:
        # At once: asked kindly, it takes half a minute. Its workers end when the raylet among these is gone.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def answers(address: str) -> bool:
    try:
        JobSubmissionClient(address).list_jobs()
    except (ConnectionError, RuntimeError):
        return False
    return True


@pytest.fixture(scope="module")
def data(corpus, model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage that every node can reach, laid out as the job files expect it."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(corpus.folder, folder / "demo" / "corpus")
    shutil.copytree(str(model.checkpoint), folder / "demo" / "train" / "model")
    return folder


def finished(client: JobSubmissionClient, name: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not client.get_job_status(name).is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(name)
        time.sleep(0.5)
    return client.get_job_info(name)


def test_the_job_files_run_on_a_cluster_and_a_bad_key_fails_its_job(head: str, data: Path) -> None:
    client = JobSubmissionClient(head)
    environment = {"env_vars": {"MGVR_DATA": str(data)}}

    # As jobs/encode.yaml says it.
    command = ["ray", "job", "submit", "--address", head, "--working-dir", "."]
    command += ["--runtime-env-json", json.dumps(environment)]
    command += ["--", "python", "-m", "pipelines.encode", "jobs/encode.yaml"]
    command[0] = str(Path(sys.executable).with_name("ray"))
    submitted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "encode: done" in submitted.stdout
    assert "12 listed, 12 encoded, 0 failed" in submitted.stdout
    assert FeatureStore(data / "features").snapshot().rows == 12

    everywhere = {"working_dir": str(ROOT), **environment}
    refused = client.submit_job(
        entrypoint="python -m pipelines.encode jobs/encode.yaml --corpus.url x", runtime_env=everywhere
    )
    answered = client.submit_job(
        entrypoint="python -m pipelines.retrieve jobs/retrieve.yaml --k 5", runtime_env=everywhere
    )
    info = finished(client, refused)
    assert (info.status, info.driver_exit_code) == (JobStatus.FAILED, 2)
    assert "unknown option --corpus.url; did you mean corpus.uri?" in client.get_job_logs(refused)
    assert "Traceback" not in client.get_job_logs(refused)
    info = finished(client, answered)
    assert (info.status, info.driver_exit_code) == (JobStatus.SUCCEEDED, 0), client.get_job_logs(answered)
    report = json.loads((data / "answers" / "report.json").read_text())
    assert (report["pool"], report["queries"]) == (12, 24)
    assert (data / "answers" / "report.html").stat().st_size > 10_000
