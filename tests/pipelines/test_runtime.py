"""What the jobs share: exit codes, the Ray connection, and the record of a run."""

from __future__ import annotations

import sys
from importlib.metadata import version

import pytest
import ray
from pydantic import Field
from ray.exceptions import RayError

from mgvr_core.config import Section
from mgvr_core.errors import JobError, MgvrError
from pipelines.environment import command_line, hardware, versions
from pipelines.runtime import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    OK,
    RayConfig,
    Stopwatch,
    cluster,
    cluster_cpus,
    main,
    summary,
)


class Config(Section):
    out: str = Field(description="folder")


def test_a_job_that_is_done_ends_with_0() -> None:
    seen: list[Config] = []
    assert main(Config, seen.append, "mgvr test", None, ["--out", "a"]) == OK == 0
    assert seen == [Config(out="a")]


def test_the_arguments_are_those_of_the_process_where_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    monkeypatch.setattr(sys, "argv", ["mgvr-test", "--out", "b"])
    assert main(Config, seen.append, "mgvr test", None, None) == OK
    assert seen == [Config(out="b")]


def test_refused_input_is_its_message_and_2(capsys: pytest.CaptureFixture[str]) -> None:
    def job(config: Config) -> None:
        raise MgvrError("videos.csv, line 3: the uri is empty")

    assert main(Config, job, "mgvr test", None, ["--out", "a"]) == BAD_INPUT == 2
    assert capsys.readouterr().err == "mgvr test: videos.csv, line 3: the uri is empty\n"


def test_ctrl_c_is_130_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    def job(config: Config) -> None:
        raise KeyboardInterrupt

    assert main(Config, job, "mgvr test", None, ["--out", "a"]) == INTERRUPTED == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("error", [JobError("another run was faster"), RayError("the node is gone")])
def test_work_that_could_not_be_finished_is_1(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def job(config: Config) -> None:
        raise error

    assert main(Config, job, "mgvr test", None, ["--out", "a"]) == FAILED == 1
    told = capsys.readouterr().err
    assert told.startswith("mgvr test: ")
    assert str(error) in told


def test_a_bug_keeps_its_traceback() -> None:
    def job(config: Config) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        main(Config, job, "mgvr test", None, ["--out", "a"])


def test_a_connection_that_exists_is_used_and_kept(ray_cluster: None) -> None:
    with cluster(RayConfig(cpus=1)):
        assert cluster_cpus() == 4
    assert ray.is_initialized()


def test_stages_add_up_in_the_order_of_their_first_use() -> None:
    watch = Stopwatch()
    for name in ("read", "score", "read"):
        with watch.stage(name):
            pass
    first = watch.seconds["read"]
    with pytest.raises(ValueError, match="inside"), watch.stage("read"):
        raise ValueError("inside")
    assert list(watch.seconds) == ["read", "score"]
    assert watch.seconds["read"] > first > 0  # a stage that failed took its time, too


def test_a_summary_is_aligned() -> None:
    assert summary("done", {"a": 1, "longer": "two"}) == "done\n  a       1\n  longer  two"


def test_the_record_names_versions_machine_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    found = versions()
    assert found["torch"] == version("torch")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(hardware()) == {"cpu", "memory", "gpu", "system"}
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/mgvr", "encode", "--out", "my runs"])
    assert command_line() == "mgvr encode --out 'my runs'"
