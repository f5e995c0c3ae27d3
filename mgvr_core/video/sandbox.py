"""Decoding in a process that can be killed: a poisoned file costs itself alone.

A cluster's scheduler can't tell a poisoned row from a lost machine, and retries both. So whoever decodes keeps one
child, gives it one file at a time with a deadline, kills it when it overruns, and starts another.
"""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

from pydantic import Field

from mgvr_core.config import Section
from mgvr_core.errors import MgvrError
from mgvr_core.video import wire
from mgvr_core.video.decoders import MAX_PIXELS, Clip, DecodeError, Request

# `-P`: a file av.py or json.py in the working directory can't stand in for the module of that name.
CHILD = (sys.executable, "-P", "-m", "mgvr_core.video.child")

_START_TIMEOUT_S = 60.0
_LAST_WORDS = 800


class Limits(Section):
    """What one file may cost."""

    timeout_s: float = Field(60.0, gt=0, description="seconds a file may take to decode before its decoder is killed")
    memory_mb: int = Field(4096, ge=512, description="address space of the decoder's process, in MiB")
    max_pixels: int = Field(MAX_PIXELS, gt=0, description="largest frame decoded, in pixels (width x height)")


class Sandbox:
    """One long-lived child that decodes, started when first needed and replaced when it dies. Use it from one thread
    at a time, and as a context manager.
    """

    def __init__(self, decoder: str = "pyav", limits: Limits | None = None, command: Sequence[str] = CHILD) -> None:
        """`command` starts the child; its settings are appended as one JSON argument."""
        self._decoder = decoder
        self._limits = limits or Limits()
        self._command = tuple(command)
        self._child: _Child | None = None
        # The kernel's death signal comes when the *thread* that started the child ends, so the child is started from
        # a thread that lives as long as the sandbox, whichever of the caller's threads needs it.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decoder-starter")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill the child, if there is one."""
        self._drop()
        self._starter.shutdown()

    def version(self) -> str:
        """The decoder's version, as decoder_version would tell in the child. Raises MgvrError if it can't start."""
        return self._running().version

    def decode(self, request: Request) -> Clip:
        """The request's clip. Raises DecodeError within the time limit whatever the file does, and MgvrError if no
        child can be started at all.
        """
        child = self._running()
        try:
            answer, payload = child.ask(wire.request_to_json(request), self._limits.timeout_s)
        except TimeoutError:
            self._drop()
            message = f"{request.path}: not decoded within {self._limits.timeout_s:g} s; the decoder was killed"
            raise DecodeError("timeout", message) from None
        except (EOFError, BrokenPipeError, ValueError):
            words = child.epitaph()
            self._drop()
            raise DecodeError("crash", f"{request.path}: the decoder process died ({words})") from None
        except BaseException:
            self._drop()  # interrupted half-way: what it would answer next belongs to this request
            raise
        if "kind" in answer:
            if answer["kind"] == "memory":
                self._drop()  # allocations that failed half-way may have left anything behind
            raise DecodeError(answer["kind"], answer["message"])
        return wire.clip_from_message(answer, payload)

    def _running(self) -> _Child:
        if self._child is not None and self._child.process.poll() is not None:
            self._drop()  # it died between two files, of neither
        if self._child is None:
            self._child = self._starter.submit(_start, self._command, self._decoder, self._limits).result()
        return self._child

    def _drop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


@dataclass
class _Child:
    """A running child and the parent's ends of its pipes."""

    process: subprocess.Popen[bytes]
    requests: io.FileIO
    answers: io.FileIO
    log: IO[bytes]
    version: str = ""

    def ask(self, message: dict[str, Any], timeout_s: float) -> tuple[dict[str, Any], bytearray]:
        """Send one message and wait for the answer. Raises TimeoutError, or EOFError or BrokenPipeError if it died."""
        self.log.truncate(0)
        for part in wire.pack(message):
            self.requests.write(part)  # far below a pipe's capacity, and the child waits for it: never blocks
        return self.hear(timeout_s)

    def hear(self, timeout_s: float) -> tuple[dict[str, Any], bytearray]:
        """Wait for one message."""
        deadline = time.monotonic() + timeout_s
        return wire.unpack(lambda size: self._read(size, deadline))

    def _read(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        poll = select.poll()
        poll.register(self.answers, select.POLLIN)
        while view:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise TimeoutError
            count = self.answers.readinto(view)
            if not count:
                raise EOFError
            view = view[count:]
        return data

    def epitaph(self) -> str:
        """How it ended, and the end of what it wrote to stderr."""
        self.process.kill()  # does nothing to one that is dead already, which is the rule here
        code = self._wait()
        how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - _LAST_WORDS))
        words = self.log.read().decode(errors="replace").strip()
        return f"{how}; its last words: {words}" if words else how

    def kill(self) -> None:
        self.process.kill()
        self._wait()
        for file in (self.requests, self.answers, self.log):
            file.close()

    def _wait(self) -> int | None:
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            return None  # stuck inside the kernel (a dead network mount): it goes when the kernel lets it


def _start(command: Sequence[str], decoder: str, limits: Limits) -> _Child:
    requests_read, requests_write = os.pipe()
    answers_read, answers_write = os.pipe()
    # A file and not a pipe: a child that writes without end can't be blocked by a parent that doesn't read.
    log = tempfile.TemporaryFile("a+b", buffering=0)  # noqa: SIM115 - lives as long as the child
    settings = {
        "decoder": decoder,
        "memory_mb": limits.memory_mb,
        "max_pixels": limits.max_pixels,
        "parent": os.getpid(),
        "requests_fd": requests_read,
        "answers_fd": answers_write,
    }
    # The child imports what the parent would: a Ray worker finds the project by sys.path, not by its environment.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen(
            [*command, json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(requests_read, answers_write),
            env=environment,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
    finally:
        os.close(requests_read)
        os.close(answers_write)
    child = _Child(process, io.FileIO(requests_write, "w"), io.FileIO(answers_read, "r"), log)
    try:
        answer, _ = child.hear(_START_TIMEOUT_S)
    except (EOFError, TimeoutError):
        words = child.epitaph()
        child.kill()
        raise MgvrError(f"the video decoder's process does not start ({words})") from None
    if "refused" in answer:
        child.kill()
        raise MgvrError(answer["refused"])
    child.version = answer["version"]
    return child
