"""The parent's side of a decoder's process: starting it, asking it with a deadline, burying it."""

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
from dataclasses import dataclass
from typing import IO, Any

from mgvr_core.errors import MgvrError
from mgvr_core.video import wire
from mgvr_core.video.decoders import DecodeError

_START_TIMEOUT_S = 60.0
_LAST_WORDS = 800


@dataclass
class Child:
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
        """End it and close the pipes."""
        self.process.kill()
        self._wait()
        for file in (self.requests, self.answers, self.log):
            file.close()

    def _wait(self) -> int | None:
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            return None  # stuck inside the kernel (a dead network mount): it goes when the kernel lets it


def start(command: Sequence[str], decoder: str, memory_mb: int, max_pixels: int) -> Child:
    """A child that has loaded its decoder. Raises MgvrError where it can't, and DecodeError, kind `killed`, where it
    was killed from outside, which may not happen again.
    """
    requests_read, requests_write = os.pipe()
    answers_read, answers_write = os.pipe()
    # A file and not a pipe: a child that writes without end can't be blocked by a parent that doesn't read.
    log = tempfile.TemporaryFile("a+b", buffering=0)  # noqa: SIM115 - lives as long as the child
    settings = {
        "decoder": decoder,
        "memory_mb": memory_mb,
        "max_pixels": max_pixels,
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
    child = Child(process, io.FileIO(requests_write, "w"), io.FileIO(answers_read, "r"), log)
    try:
        answer, _ = child.hear(_START_TIMEOUT_S)
    except (EOFError, TimeoutError) as error:
        words = child.epitaph()
        killed = isinstance(error, EOFError) and child.process.returncode == -signal.SIGKILL
        child.kill()
        if killed:
            raise DecodeError("killed", f"the video decoder's process was killed as it started ({words})") from None
        raise MgvrError(f"the video decoder's process does not start ({words})") from None
    if "refused" in answer:
        child.kill()
        raise MgvrError(answer["refused"])
    child.version = answer["version"]
    return child
