"""A poisoned file costs itself alone: whatever it does to its process, it gets a name and the next file decodes."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from mgvr_core.errors import MgvrError
from mgvr_core.video import child
from mgvr_core.video.decoders import FAULTS, HANDED_ON, TRANSIENT, DecodeError, Fault, Request, decode, decoder_version
from mgvr_core.video.sampling import SamplingConfig
from mgvr_core.video.sandbox import Limits, Sandbox

NAUGHTY = (sys.executable, str(Path(__file__).with_name("naughty_child.py")))
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")


def ask(name: str) -> Request:
    return Request(f"/somewhere/{name}", SamplingConfig(), 2)


@pytest.fixture
def naughty() -> Iterator[Sandbox]:
    with Sandbox("pyav", Limits(memory_mb=768), NAUGHTY) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("segfault", "crash", "SIGSEGV"),
        ("leave", "crash", "exit status 3"),
        ("babble", "crash", "process died"),
        ("shot", "killed", "SIGKILL"),
        ("eat", "memory", "more memory than the limit"),
        ("raise", "decoder_error", "ArithmeticError: a bug in the decoder"),
    ],
)
def test_every_kind_of_poison_gets_its_name_and_the_next_file_decodes(
    naughty: Sandbox, name: str, kind: str, words: str
) -> None:
    naughty.decode(ask("good"))
    with pytest.raises(DecodeError, match=f"/somewhere/{name}: .*{words}") as caught:
        naughty.decode(ask(name))
    assert caught.value.kind == kind
    assert naughty.decode(ask("good")).frames.shape == (1, 2, 2, 3)


def test_a_decoder_that_hangs_in_native_code_is_killed_at_the_time_limit_and_replaced() -> None:
    with Sandbox("pyav", Limits(timeout_s=0.5), NAUGHTY) as sandbox:
        hung = sandbox._running().process
        with pytest.raises(DecodeError, match=r"/somewhere/hang: not decoded within 0\.5 s") as caught:
            sandbox.decode(ask("hang"))
        assert caught.value.kind == "timeout"
        assert hung.returncode == -signal.SIGKILL
        assert sandbox._running().process is not hung


def test_a_crash_report_carries_the_end_of_what_the_decoder_wrote(naughty: Sandbox) -> None:
    with pytest.raises(DecodeError, match=r"(?s)last words: .*misbehave"):
        naughty.decode(ask("segfault"))


def test_a_decoder_that_writes_without_end_is_not_blocked(naughty: Sandbox) -> None:
    assert naughty.decode(ask("shout")).duration == 1.0


def test_one_child_serves_file_after_file(naughty: Sandbox) -> None:
    assert len({naughty.decode(ask("good")).frames[0, 0, 0, 0] for _ in range(5)}) == 1


def test_the_child_outlives_the_thread_that_first_needed_it(naughty: Sandbox) -> None:
    first: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: first.append(naughty.decode(ask("good")).frames))
    thread.start()
    thread.join()
    time.sleep(0.05)  # time for a death signal to arrive, if one was sent
    np.testing.assert_array_equal(naughty.decode(ask("good")).frames, first[0])


def test_a_child_that_dies_between_two_files_is_neither_ones_fault(naughty: Sandbox) -> None:
    naughty.decode(ask("good"))
    naughty._child.process.kill()
    naughty._child.process.wait()
    assert naughty.decode(ask("good")).duration == 1.0


PARENT = """
import sys
from mgvr_core.video.decoders import Request
from mgvr_core.video.sampling import SamplingConfig
from mgvr_core.video.sandbox import Sandbox
sandbox = Sandbox("pyav", command=(sys.executable, sys.argv[1]))
sandbox.version()
print(sandbox._child.process.pid, flush=True)
sandbox.decode(Request(sys.argv[2], SamplingConfig(), 2))
"""


@linux_only
def test_no_child_outlives_a_killed_parent_even_in_the_middle_of_native_code(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    marker = tmp_path / "hang"
    command = [sys.executable, "-c", PARENT, NAUGHTY[1], str(marker)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        pid = int(parent.stdout.readline())
        wait_until(marker.exists)
        os.kill(pid, 0)  # it lives
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: gone_or_zombie(pid))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def gone_or_zombie(pid: int) -> bool:
    """Whether a process has ended; in a container without an init nobody collects an orphan that has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_closing_ends_the_child(naughty: Sandbox) -> None:
    naughty.decode(ask("good"))
    process = naughty._child.process
    naughty.close()
    assert process.returncode is not None


def test_the_clip_is_the_one_that_decoding_here_gives(films) -> None:
    request = Request(str(films["bframes.mp4"].path), SamplingConfig(), 224, start=1.0, end=5.0)
    with Sandbox() as sandbox:
        there, here = sandbox.decode(request), decode("pyav", request)
        assert sandbox.version() == decoder_version("pyav")
    np.testing.assert_array_equal(there.frames, here.frames)
    np.testing.assert_array_equal(there.timestamps, here.timestamps)
    assert there.decoder == here.decoder == "pyav"
    assert (there.duration, there.fps, there.width, there.height) == (here.duration, here.fps, here.width, here.height)
    assert there.frames.flags.writeable


def test_a_file_may_bear_any_name(films, tmp_path: Path) -> None:
    data = films["bframes.mp4"].path.read_bytes()
    with Sandbox() as sandbox:
        for name in (b"-dash.mp4", b"concat:a|b?c=%20&d'e.mp4", "fil\u017e\u00e9.mp4".encode(), b"not\xff\xfetext.mp4"):
            path = tmp_path / os.fsdecode(name)
            path.write_bytes(data)
            assert len(sandbox.decode(Request(str(path), SamplingConfig(), 32)).frames) == 8


def test_a_relative_name_is_not_taken_for_a_protocol(films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("concat:a.mp4").write_bytes(films["bframes.mp4"].path.read_bytes())
    assert len(decode("pyav", Request("concat:a.mp4", SamplingConfig(), 32)).frames) == 8


def test_what_is_no_video_file_is_refused_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "page.mp4").write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
    kinds = {}
    with Sandbox("pyav", Limits(timeout_s=20)) as sandbox:
        for path in [*tmp_path.iterdir(), Path("/dev/zero"), tmp_path / "absent.mp4"]:
            with pytest.raises(DecodeError, match=path.name) as caught:
                sandbox.decode(Request(str(path), SamplingConfig(), 32))
            kinds[path.name] = caught.value.kind
    others = dict.fromkeys(("pipe.mp4", "folder.mp4", "page.mp4", "zero"), "not_a_video")
    assert kinds == {"absent.mp4": "missing", "empty.mp4": "empty", **others}


def test_frames_above_the_limit_are_refused(films) -> None:
    request = Request(str(films["bframes.mp4"].path), SamplingConfig(), 32)
    with Sandbox("pyav", Limits(max_pixels=64 * 64)) as sandbox:
        sandbox.decode(request)
    with Sandbox("pyav", Limits(max_pixels=64 * 64 - 1)) as sandbox:
        with pytest.raises(DecodeError, match="64x64") as caught:
            sandbox.decode(request)
        assert caught.value.kind == "too_large"


def test_a_child_that_can_not_start_is_no_files_fault(films) -> None:
    request = Request(str(films["bframes.mp4"].path), SamplingConfig(), 32)
    with Sandbox("no such decoder") as sandbox, pytest.raises(MgvrError, match="no video decoder is called"):
        sandbox.decode(request)
    with Sandbox("pyav", command=(sys.executable, "-c", "raise SystemExit('not today')")) as sandbox:
        with pytest.raises(MgvrError, match=r"does not start .*not today") as caught:
            sandbox.decode(request)
        assert not isinstance(caught.value, DecodeError)


def test_a_child_that_is_killed_as_it_starts_is_a_fault_of_the_moment(films) -> None:
    request = Request(str(films["bframes.mp4"].path), SamplingConfig(), 32)
    shot = Sandbox("pyav", command=("sh", "-c", "kill -9 $$"))
    with shot as sandbox, pytest.raises(DecodeError, match=request.path) as caught:
        sandbox.decode(request)
    assert caught.value.kind == "killed"


def test_a_decoder_that_is_killed_does_not_change_which_decoder_a_video_has() -> None:
    with Sandbox("decord", Limits(memory_mb=768), NAUGHTY, fallback="pyav") as sandbox:
        with pytest.raises(DecodeError) as caught:
            sandbox.decode(ask("shot"))
        assert caught.value.kind == "killed"
        assert sandbox._fallback._child is None


def test_the_child_imports_neither_torch_nor_ray() -> None:
    code = f"import {child.__name__}, {decode.__module__}, mgvr_core.video.pyav, sys; print(sorted(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "'av'" in loaded.stdout
    assert not {"'torch'", "'ray'", "'pyarrow'"} & set(loaded.stdout.strip("[]\n").split(", "))


@pytest.mark.parametrize(("name", "kind"), [("segfault", "crash"), ("raise", "decoder_error"), ("eat", "memory")])
def test_where_both_decoders_fail_the_message_has_both_reasons(name: str, kind: str) -> None:
    with Sandbox("decord", Limits(memory_mb=768), NAUGHTY, fallback="pyav") as sandbox:
        with pytest.raises(DecodeError, match=f"(?s){name}: .*before that, decord: /somewhere/{name}: ") as caught:
            sandbox.decode(ask(name))
        assert caught.value.kind == kind
        assert sandbox.decode(ask("good")).decoder == "decord"
        assert sandbox.version() == "naughty decord then naughty pyav"


def test_a_fault_of_the_file_is_not_tried_twice(tmp_path: Path) -> None:
    (tmp_path / "page.mp4").write_text("<html>")
    with Sandbox("pyav", fallback="pyav") as sandbox:
        with pytest.raises(DecodeError) as caught:
            sandbox.decode(Request(str(tmp_path / "page.mp4"), SamplingConfig(), 32))
        assert "before that" not in str(caught.value)
        assert sandbox._fallback._child is None


def test_closing_ends_the_fallbacks_child_too(films) -> None:
    with Sandbox("pyav", Limits(timeout_s=0.5), NAUGHTY, fallback="pyav") as sandbox:
        with pytest.raises(DecodeError) as caught:
            sandbox.decode(ask("leave"))
        assert caught.value.kind == "crash"
        process = sandbox._fallback._running().process
    assert process.returncode is not None


def test_what_is_tried_again_and_what_is_handed_on_are_known_faults() -> None:
    assert set(FAULTS) == set(get_args(Fault))
    assert set(FAULTS) > TRANSIENT
    assert set(FAULTS) > HANDED_ON


def test_an_error_crosses_process_borders_with_its_kind() -> None:
    error = pickle.loads(pickle.dumps(DecodeError("timeout", "a.mp4: too slow")))  # noqa: S301 - Ray does it
    assert (error.kind, str(error)) == ("timeout", "a.mp4: too slow")
    assert error.kind in FAULTS
