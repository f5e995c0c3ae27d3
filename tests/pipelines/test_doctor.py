from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import av.codec
import pytest
import torch

from pipelines import doctor
from pipelines import doctor_checks as checks
from pipelines.doctor_checks import GIB, Finding

REAL_CODEC = av.codec.Codec


def only(findings: list[Finding], name: str) -> Finding:
    (found,) = (finding for finding in findings if finding.name == name)
    return found


@pytest.fixture
def without_codec(monkeypatch: pytest.MonkeyPatch):
    """Make PyAV deny the codecs of these names."""

    def deny(*names: str) -> None:
        def codec(name: str, mode: str) -> av.codec.Codec:
            if name in names:
                raise av.codec.codec.UnknownCodecError(name)
            return REAL_CODEC(name, mode)

        monkeypatch.setattr(av.codec, "Codec", codec)

    return deny


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch):
    """Replace all checks by one that gives these findings."""

    def give(*findings: Finding) -> None:
        monkeypatch.setattr(doctor, "sections", lambda ray, network: {"Here": [lambda: list(findings)]})

    return give


def test_this_machine_can_run_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(["--no-ray"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("All that the demo needs works here.\n")
    assert "problem" not in printed


def test_a_local_ray_runs_a_task_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # a cluster elsewhere is not what is asked
    assert checks.ray_starts() == [Finding("starts", "ok", "a local Ray ran a task")]


def test_a_ray_that_fails_or_hangs_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho no socket >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    (failed,) = checks.ray_starts()
    assert (failed.state, failed.detail) == ("problem", "no socket")
    assert failed.advice

    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(checks, "RAY_TIMEOUT", 0.2)
    (hung,) = checks.ray_starts()
    assert (hung.state, hung.detail) == ("problem", "no answer within 0.2 s")


def test_every_codec_that_the_lock_brings_is_read() -> None:
    findings = checks.codecs()
    assert [finding.state for finding in findings] == ["ok", "ok"]
    assert all(label in only(findings, "reads").detail for label in checks.CODECS)


def test_a_missing_codec_is_a_note_with_its_name(without_codec) -> None:
    without_codec("hevc")
    findings = checks.codecs()
    assert only(findings, "HEVC").state == "note"
    assert only(findings, "HEVC").advice
    assert "HEVC" not in only(findings, "reads").detail


def test_one_of_several_decoders_is_enough(without_codec) -> None:
    without_codec("vp9")
    assert "VP9" in only(checks.codecs(), "reads").detail
    without_codec(*checks.CODECS["VP9"])
    assert only(checks.codecs(), "VP9").state == "note"


@pytest.mark.parametrize(("codec", "name"), [("h264", "H.264"), ("libx264", "writes")])
def test_what_the_demo_cannot_do_without_is_a_problem(without_codec, codec: str, name: str) -> None:
    without_codec(codec)
    finding = only(checks.codecs(), name)
    assert finding.state == "problem"
    assert finding.advice


def test_a_library_that_does_not_load_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    findings = checks.packages()
    assert only(findings, "faiss-cpu").state == "problem"
    assert "make setup" in only(findings, "faiss-cpu").advice
    assert only(findings, "torch").state == "ok"


def test_a_check_without_its_library_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av.codec", None)
    assert doctor.run(["--no-ray"]) == 1
    printed = capsys.readouterr().out
    assert "can't be checked" in printed
    assert "cores" in printed


def test_decord_comes_with_its_caveat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    assert "not needed" in checks.decord()[0].detail
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(checks, "version", lambda name: "0.6.0")
    (finding,) = checks.decord()
    assert finding.state == "note"
    assert "wrong frames" in finding.detail


@pytest.mark.parametrize(("gib", "state"), [(3, "problem"), (24, "ok")])
def test_memory_below_the_demos_need_is_a_problem(monkeypatch: pytest.MonkeyPatch, gib: int, state: str) -> None:
    monkeypatch.setattr(checks, "memory_limit", lambda: gib * GIB)
    (finding,) = checks.memory()
    assert finding.state == state
    assert finding.detail == f"{gib}.0 GiB"
    assert bool(finding.advice) == (state == "problem")


def test_little_shared_memory_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("this system has no /dev/shm")
    monkeypatch.setattr(checks, "memory_limit", lambda: 10**9 * GIB)
    (finding,) = checks.shared_memory()
    assert finding.state == "note"
    assert "--shm-size" in finding.advice


def test_the_disk_is_the_one_of_the_run_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) in checks.disk()[0].detail
    (tmp_path / "runs").mkdir()
    assert str(tmp_path / "runs") in checks.disk()[0].detail
    monkeypatch.setattr(checks, "DEMO_DISK", 10**9 * GIB)
    assert checks.disk()[0].state == "problem"
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    assert "not writable" in checks.disk()[0].detail


def test_a_driver_that_torch_cannot_use_is_told_from_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(checks.shutil, "which", lambda name: None)
    assert checks.gpu()[0].detail.startswith("none")
    monkeypatch.setattr(checks.shutil, "which", lambda name: f"bin/{name}")
    assert "CUDA" in checks.gpu()[0].advice


def test_the_cluster_that_the_jobs_would_go_to_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("RAY_AUTH_MODE")
    findings = checks.ray_settings()
    assert "RAY_AUTH_MODE=token" in only(findings, "RAY_AUTH_MODE").advice
    assert "10.0.0.1:6379" in only(findings, "RAY_ADDRESS").detail
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert only(checks.ray_settings(), "RAY_AUTH_MODE") == Finding("RAY_AUTH_MODE", "ok", "token")


def test_weights_are_found_in_the_cache_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    assert {finding.state for finding in checks.weights_here()} <= {"ok", "note"}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: f"cache/{repository}/{file}")
    assert [finding.state for finding in checks.weights_here()] == ["ok", "ok"]
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: None)
    assert [finding.detail for finding in checks.weights_here()] == ["not on this machine"] * 2


def test_the_hub_is_asked_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.weights_reachable not in doctor.sections(ray=True, network=False)["Weights"]
    assert checks.weights_reachable in doctor.sections(ray=True, network=True)["Weights"]
    monkeypatch.setattr("huggingface_hub.file_exists", lambda repository, file: True)
    assert [finding.state for finding in checks.weights_reachable()] == ["ok", "ok"]

    def offline(repository: str, file: str) -> bool:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.file_exists", offline)
    finding = checks.weights_reachable()[0]
    assert (finding.state, finding.detail) == ("note", "the hub does not answer: ConnectionError")
    assert finding.advice


def test_ray_is_not_started_if_not_wanted() -> None:
    assert checks.ray_starts in doctor.sections(ray=True, network=False)["Ray"]
    assert checks.ray_starts not in doctor.sections(ray=False, network=False)["Ray"]


def test_a_problem_is_the_exit_status_and_a_note_is_not(answers, capsys: pytest.CaptureFixture[str]) -> None:
    answers(Finding("gpu", "note", "none"))
    assert doctor.run([]) == 0
    answers(Finding("gpu", "note", "none"), Finding("disk", "problem", "full", "free some"))
    assert doctor.run([]) == 1
    assert "Problems that keep the demo from working: 1." in capsys.readouterr().out


def test_the_table_is_aligned_and_puts_advice_below(answers, capsys: pytest.CaptureFixture[str]) -> None:
    answers(Finding("a", "ok", "fine"), Finding("longer", "problem", "broken", "mend it"))
    doctor.run([])
    assert capsys.readouterr().out.splitlines()[:4] == [
        "Here",
        "  ok       a       fine",
        "  problem  longer  broken",
        "                   -> mend it",
    ]


def test_json_says_the_same(answers, capsys: pytest.CaptureFixture[str]) -> None:
    answers(Finding("disk", "problem", "full", "free some"))
    assert doctor.run(["--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "works": False,
        "findings": {"Here": [{"name": "disk", "state": "problem", "detail": "full", "advice": "free some"}]},
    }


def test_models_lists_names_with_their_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(["--models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ViT-B-32-quickgelu ") and "openai" in line for line in lines)
