"""Decoding in a process that can be killed: a poisoned file costs itself alone.

A cluster's scheduler can't tell a poisoned row from a lost machine, and retries both. So whoever decodes keeps one
child, gives it one file at a time with a deadline, kills it when it overruns, and starts another.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from pydantic import Field

from mgvr_core.config import Section
from mgvr_core.errors import MgvrError
from mgvr_core.video import process, wire
from mgvr_core.video.decoders import HANDED_ON, MAX_PIXELS, Clip, DecodeError, Fault, Request

# `-P`: a file av.py or json.py in the working directory can't stand in for the module of that name.
CHILD = (sys.executable, "-P", "-m", "mgvr_core.video.child")


class Limits(Section):
    """What one file may cost."""

    timeout_s: float = Field(60.0, gt=0, description="seconds a file may take to decode before its decoder is killed")
    memory_mb: int = Field(4096, ge=512, description="address space of the decoder's process, in MiB")
    max_pixels: int = Field(MAX_PIXELS, gt=0, description="largest frame decoded, in pixels (width x height)")


class Sandbox:
    """One long-lived child that decodes, started when first needed and replaced when it dies; and one more for the
    files that the first decoder hands on to its fallback. Use it from one thread at a time, and as a context manager.
    """

    def __init__(
        self,
        decoder: str = "pyav",
        limits: Limits | None = None,
        command: Sequence[str] = CHILD,
        fallback: str | None = None,
    ) -> None:
        """`command` starts the child; its settings are appended as one JSON argument. `fallback` names the decoder of
        files that `decoder` refuses, or fails at for a reason that may be its own (HANDED_ON).
        """
        self._decoder = decoder
        self._limits = limits or Limits()
        self._command = tuple(command)
        self._child: process.Child | None = None
        self._has_run = False
        self._fallback = None if fallback is None else Sandbox(fallback, self._limits, command)
        # The kernel's death signal comes when the *thread* that started the child ends, so the child is started from
        # a thread that lives as long as the sandbox, whichever of the caller's threads needs it.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="decoder-starter")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill the children, if there are any."""
        self._drop()
        self._starter.shutdown()
        if self._fallback is not None:
            self._fallback.close()

    def version(self) -> str:
        """The decoders' version, as chain_version would tell in the child. Raises MgvrError if one can't start."""
        own = self._running().version
        return own if self._fallback is None else f"{own} then {self._fallback.version()}"

    def decode(self, request: Request) -> Clip:
        """The request's clip. Raises DecodeError within the time limit (of each decoder) whatever the file does, and
        MgvrError if no child can be started at all. Where both decoders fail, the fault is the fallback's.
        """
        try:
            return self._decode(request)
        except DecodeError as error:
            if self._fallback is None or error.kind not in HANDED_ON:
                raise
            refusal = error
        try:
            return self._fallback.decode(request)
        except DecodeError as error:
            raise DecodeError(error.kind, f"{error} (before that, {self._decoder}: {refusal})") from None

    def _decode(self, request: Request) -> Clip:
        try:
            child = self._running()
        except DecodeError as error:
            raise DecodeError(error.kind, f"{request.path}: {error}") from None
        try:
            answer, payload = child.ask(wire.request_to_json(request), self._limits.timeout_s)
        except TimeoutError:
            self._drop()
            message = f"{request.path}: not decoded within {self._limits.timeout_s:g} s; the decoder was killed"
            raise DecodeError("timeout", message) from None
        except (EOFError, BrokenPipeError, ValueError) as error:
            words = child.epitaph()
            # A file can't bring this signal about: the kernel was out of memory, or it was somebody. (Who talks
            # nonsense, a ValueError, was alive, and has been killed here.)
            outside = child.process.returncode == -signal.SIGKILL and not isinstance(error, ValueError)
            kind: Fault = "killed" if outside else "crash"
            self._drop()
            raise DecodeError(kind, f"{request.path}: the decoder process died ({words})") from None
        except BaseException:
            self._drop()  # interrupted half-way: what it would answer next belongs to this request
            raise
        if "kind" in answer:
            if answer["kind"] == "memory":
                self._drop()  # allocations that failed half-way may have left anything behind
            raise DecodeError(answer["kind"], answer["message"])
        clip = wire.clip_from_message(answer, payload)
        clip.decoder = self._decoder
        return clip

    def _running(self) -> process.Child:
        if self._child is not None and self._child.process.poll() is not None:
            self._drop()  # it died between two files, of neither
        if self._child is None:
            limits = self._limits
            settings = self._command, self._decoder, limits.memory_mb, limits.max_pixels
            try:
                self._child = self._starter.submit(process.start, *settings).result()
            except MgvrError as error:
                if not self._has_run or isinstance(error, DecodeError):
                    raise
                # One has started before, so this is no missing library: the machine has too much to do.
                raise DecodeError("machine", str(error)) from None
            self._has_run = True
        return self._child

    def _drop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None
