"""What each video library gives for every file beside the checkout, against a decode of the whole file in order.

`MGVR_DECODERS` lists label=interpreter pairs, separated by commas: decord=..., decord2=..., torchcodec=..., each an
interpreter in which that library is installed (decord and its fork share an import name, so each needs its own).
Without it only what this interpreter has is measured. `MGVR_DECODERS_REPORT` names a file for the outcome of each file;
what stands there already, of the same library's same version, is not measured again, so a run cut off can be taken up.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import runpy
import select
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.format import Flags

from mgvr_core.video.picture import Shots

CLIPS = (Path(__file__).resolve().parents[2] / ".." / "shared" / "clips").resolve()
CHILD = Path(__file__).with_name("decoder_child.py")
LIBRARY = runpy.run_path(str(CHILD))  # benchmarks are not a package
SIDE: int = LIBRARY["SIDE"]
FRAMES = 12
LIMIT_S = 60.0
OPENINGS = 1000
ROUNDS = 3
RACED_OF = 3  # every third clip, the smallest first

# Grey levels. Colour conversions differ by a few between libraries; a frame is wrong where another frame of the file is
# nearer by this much, and where no frame of the file is anywhere near.
NEARER, FAR = 1.0, 30.0
TIME_S = 2e-3
# A clock set anew, as ffmpeg measures it: a second recording follows, and goes on where the first ends.
BACK_S, AHEAD_S = 0.1, 10.0

GIVES_UP = ("refused", "rightly refused", "hang", "crash")

pytestmark = pytest.mark.skipif(not CLIPS.exists(), reason="../shared/clips is not beside this checkout")


@dataclass
class Truth:
    """A whole file, decoded in order: when each frame begins, what it shows (whole; the middle), its hash."""

    times: list[float] = field(default_factory=list)
    whole: list[Any] = field(default_factory=list)
    square: list[Any] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    encrypted: bool = False
    end: float = 0.0

    @property
    def decodable(self) -> bool:
        return bool(self.times) and not self.encrypted

    def instants(self) -> list[float]:
        return ((np.arange(FRAMES) + 0.5) * self.end / FRAMES).tolist()


def in_order(path: Path) -> Truth:
    truth = Truth()
    with contextlib.suppress(av.FFmpegError), av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
            return truth
        truth.encrypted = "enc_key_id" in stream.metadata
        stream.thread_count = 1
        origin, base = None, float(stream.time_base or 1)
        leaps = Flags.ts_discont in Flags(container.format.flags)
        for packet in container.demux(stream):
            truth.encrypted |= packet.has_sidedata("encryption_info")
            with contextlib.suppress(av.FFmpegError):
                for number, frame in enumerate(packet.decode(), len(truth.times)):
                    rate = stream.average_rate or 25
                    if container.format.name == "avi" or frame.pts is None:
                        time, length = number / rate, 1 / rate
                    else:
                        stamp, length = frame.pts * base, frame.duration * base
                        origin = stamp if origin is None else origin
                        before = truth.times[-1] if truth.times else 0.0
                        if before - (stamp - origin) > BACK_S or (leaps and stamp - origin - before > AHEAD_S):
                            origin = stamp - truth.end
                        time = stamp - origin
                    if truth.times and time <= truth.times[-1]:
                        continue  # late: only damaged files bring such frames
                    truth.times.append(float(time))
                    truth.end = float(time + (length or 1 / rate))
                    upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                    truth.whole.append(LIBRARY["thumbnail"](upright))
                    truth.square.append(middle(frame))
                    truth.digests.append(digest(frame))
    return truth


def middle(frame: av.VideoFrame) -> Any:
    shots = Shots(SIDE)
    shots.add(frame, 0.0)
    return shots.clip(0.0, 0.0).frames[0]


def digest(frame: av.VideoFrame) -> str:
    """The hash of a frame as it left the decoder, as `ffmpeg -f framemd5` writes it."""
    found = hashlib.md5(usedforsecurity=False)
    for number, plane in enumerate(frame.planes):
        parts = [part for part in frame.format.components if part.plane == number]
        bits = sum(-(-part.bits // 8) * 8 for part in parts)
        if len(frame.planes) == 1:
            bits = frame.format.padded_bits_per_pixel
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
        found.update(np.ascontiguousarray(rows[:, : -(-plane.width * bits // 8)]))
    return found.hexdigest()


class Child:
    """A library in a process that can be killed, and is started again when it was."""

    def __init__(self, label: str, python: str) -> None:
        self.label, self._python, self._process = label, python, None
        self.version = self._start().get("version")
        self.ours = label.startswith("mgvr")

    def _start(self) -> dict[str, Any]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if self._python != sys.executable:
            del environment["PYTHONPATH"]  # another interpreter has packages of its own
        command = [self._python, str(CHILD), self.label]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, env=environment, bufsize=0)
        hello = self._hear()
        if "version" not in hello:
            print(f"{self.label}: not measured: {hello}")
        return hello

    def ask(self, path: Path, instants: list[float], look: bool = True) -> dict[str, Any]:
        if self._process is None:
            self._start()
        line = json.dumps({"path": str(path), "instants": instants, "look": look}) + "\n"
        try:
            self._process.stdin.write(line.encode())
        except BrokenPipeError:
            return {"crash": True}
        answer = self._hear()
        if "hang" in answer or "crash" in answer:
            self.close()
        return answer

    def _hear(self) -> dict[str, Any]:
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], LIMIT_S)[0]:
                return {"hang": True}
            part = os.read(self._process.stdout.fileno(), 1 << 20)
            if not part:
                return {"crash": True}
            line += part
        return json.loads(line)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


def children() -> list[Child]:
    pairs = [pair.split("=", 1) for pair in os.environ.get("MGVR_DECODERS", "").split(",") if pair]
    if not pairs:
        pairs = [["decord", sys.executable], ["torchcodec", sys.executable]]
    pairs += [[label, sys.executable] for label in ("pyav", "mgvr-decord", "mgvr-pyav")]
    return [child for child in (Child(*pair) for pair in pairs) if child.version]


def judge(answer: dict[str, Any], truth: Truth, ours: bool) -> tuple[str, int]:
    """The outcome, and how many of the frames are not those of their instants."""
    for fault in ("hang", "crash"):
        if fault in answer:
            return fault, 0
    if "refused" in answer:
        return ("refused" if truth.decodable else "rightly refused"), 0
    if not truth.decodable:
        return "wrong frames", len(answer["times"])  # noise, or a picture where there is none
    pictures = np.frombuffer(base64.b64decode(answer["frames"]), np.uint8).reshape(-1, SIDE, SIDE, 3).astype(np.int16)
    known = np.stack(truth.square if ours else truth.whole).astype(np.int16)
    due = np.searchsorted(truth.times, np.array(answer["instants"]) + 1e-6, side="right") - 1
    wrong = 0
    for picture, place in zip(pictures, due, strict=True):
        distances = np.abs(known - picture).mean(axis=(1, 2, 3))
        wrong += distances[place] - distances.min() > NEARER or distances[place] > FAR
    if wrong:
        return "wrong frames", int(wrong)
    late = np.abs(np.array(answer["times"]) - np.array(truth.times)[due]) > TIME_S
    return ("wrong times" if late.any() else "right"), 0


def agrees_with_ffmpeg(path: Path, truth: Truth) -> str:
    """In words, whether the ffmpeg command decodes the same frames, bit for bit, as reading in order did."""
    command = ["ffmpeg", "-v", "quiet", "-noautorotate", "-threads", "1", "-i", f"file:{path}", "-an", "-sn", "-dn"]
    command += ["-autoscale", "0", "-vsync", "passthrough", "-f", "framemd5", "-"]
    lines = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, text=True, check=False).stdout
    theirs = [line.split(",")[-1].strip() for line in lines.splitlines() if not line.startswith("#")]
    if len(theirs) != len(truth.digests):
        return f"ffmpeg has {len(theirs)} frames, reading in order {len(truth.digests)}"
    apart = sum(a != b for a, b in zip(theirs, truth.digests, strict=True))
    return f"{apart} frames differ" if apart else "same"


def measure(path: Path, row: dict[str, Any], asked: list[Child]) -> None:
    """Add to the row of a file what is not in it yet."""
    missing = [child for child in asked if row.get(child.label, {}).get("version") != child.version]
    if "frames" in row and not missing:
        return
    truth = in_order(path)
    row.update(frames=len(truth.times), encrypted=truth.encrypted)
    if shutil.which("ffmpeg"):
        row["ffmpeg"] = agrees_with_ffmpeg(path, truth)
    for child in missing:
        answer = child.ask(path, truth.instants())
        outcome, wrong = judge(answer, truth, child.ours)
        said = answer.get("refused", "")
        row[child.label] = {"version": child.version, "outcome": outcome, "wrong": wrong, "said": said}


def test_frames_and_times_of_every_file() -> None:
    asked = children()
    report = Path(os.environ["MGVR_DECODERS_REPORT"]) if "MGVR_DECODERS_REPORT" in os.environ else None
    rows: dict[str, dict[str, Any]] = json.loads(report.read_text()) if report and report.exists() else {}
    for folder in ("broken", "odd", "good"):
        for path in sorted((CLIPS / folder).iterdir(), key=lambda path: path.stat().st_size):
            measure(path, rows.setdefault(f"{folder}/{path.name}", {}), asked)
            if report:
                report.write_text(json.dumps(rows, indent=1))
    for child in asked:
        child.close()
        print(f"\n{child.label} ({child.version})")
        for folder in ("good", "odd", "broken"):
            answers = [row[child.label] for file, row in rows.items() if file.startswith(folder)]
            counts = dict(Counter(answer["outcome"] for answer in answers))
            print(f"  {folder}: {counts}, {sum(answer['wrong'] for answer in answers)} frames wrong")
        failed = [row for row in rows.values() if row[child.label]["outcome"] in GIVES_UP]
        rescued = {other.label: sum(row[other.label]["outcome"] == "right" for row in failed) for other in asked}
        print(f"  of the {len(failed)} files that it refuses, hangs at or dies of, others get right: {rescued}")
    ours = [
        f"{file}: {label} {row[label]['outcome']}"
        for file, row in rows.items()
        for label in {"mgvr-pyav", "mgvr-decord"} & {child.label for child in asked}
        if row[label]["outcome"] in ("wrong frames", "wrong times")
    ]
    assert not ours, "a decoder of this project gave a wrong frame or time"


def small_clips() -> list[Path]:
    """Clips that every library decodes right: mp4 with H.264, the smallest first."""
    mp4 = [path for path in (CLIPS / "good").glob("*.mp4") if path.name != "cve_vid1.mp4"]
    return sorted(mp4, key=lambda path: path.stat().st_size)


def test_memory_over_many_files() -> None:
    clips = small_clips()[:10]
    plans = {clip: in_order(clip).instants()[:2] for clip in clips}
    for child in children():
        sizes = [child.ask(clips[n % 10], plans[clips[n % 10]], look=False).get("rss", 0) for n in range(OPENINGS)]
        child.close()
        first, last = sizes[OPENINGS // 10], sizes[-1]
        print(
            f"\n{child.label} ({child.version}): {(last - first) / 2**20:+.0f} MiB from file {OPENINGS // 10} to file "
            f"{OPENINGS}, of {last / 2**20:.0f} MiB"
        )


def test_speed_in_one_run() -> None:
    """In turns, and the shortest of each: whatever else the machine does only ever adds."""
    asked = children()
    raced = small_clips()[::RACED_OF]
    shortest: dict[tuple[str, Path], float] = {}
    for clip in raced:
        instants = in_order(clip).instants()
        for _ in range(ROUNDS):
            for child in asked:
                seconds = child.ask(clip, instants, look=False).get("seconds")
                if seconds is not None:
                    best = shortest.get((child.label, clip), seconds)
                    shortest[child.label, clip] = min(best, seconds)
    for child in asked:
        child.close()
        both = [clip for clip in raced if (child.label, clip) in shortest and ("mgvr-pyav", clip) in shortest]
        ratios = [shortest[child.label, clip] / shortest["mgvr-pyav", clip] for clip in both]
        print(
            f"\n{child.label} ({child.version}): {np.exp(np.log(ratios).mean()):.2f} times as long as mgvr-pyav "
            f"over {len(both)} of {len(raced)} clips (from {min(ratios):.2f} to {max(ratios):.2f})"
        )
