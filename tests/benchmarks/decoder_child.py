"""One video library in one interpreter, asked for frames over pipes: `python decoder_child.py LABEL`.

It imports nothing of the project unless LABEL names one of its decoders, so it runs wherever the library is installed.
Requests and answers are JSON, one a line: {"path", "instants"} -> {"instants", "times", "frames", "seconds", "rss"}.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 64
# Instants are sums of rounded numbers: a frame that begins within a microsecond of one counts as begun.
ROUNDING_S = 1e-6

Answer = tuple[list[float], list[float], list[Any]]  # instants; when the frames shown begin; (h, w, 3) uint8 pictures
Reader = Callable[[str, list[float]], Answer]


def thumbnail(picture: Any) -> Any:
    """(h, w, 3) uint8 -> (SIDE, SIDE, 3) uint8: the mean of each cell; the nearest pixel where there are fewer."""
    cells = picture.astype(np.float32)
    for axis in (0, 1):
        edges = np.arange(SIDE) * cells.shape[axis] // SIDE
        counts = np.maximum(np.diff(np.append(edges, cells.shape[axis])), 1)
        cells = np.add.reduceat(cells, edges, axis) / np.expand_dims(counts, (1, 2) if axis == 0 else (0, 2))
    return cells.round().astype(np.uint8)


def decord_reader() -> Reader:
    import decord

    def read(path: str, instants: list[float]) -> Answer:
        reader = decord.VideoReader(path, num_threads=1)
        starts = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0].astype(float)
        starts -= starts[0]
        picks = np.maximum(np.searchsorted(starts, np.array(instants) + ROUNDING_S, side="right") - 1, 0)
        frames = reader.get_batch(picks.tolist()).asnumpy()
        return instants, starts[picks].tolist(), list(frames)

    return read


def torchcodec_reader() -> Reader:
    from torchcodec.decoders import VideoDecoder

    def read(path: str, instants: list[float]) -> Answer:
        decoder = VideoDecoder(path, dimension_order="NHWC", seek_mode="exact", num_ffmpeg_threads=1)
        begin, end = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds
        batch = decoder.get_frames_played_at([min(begin + t + ROUNDING_S, end - ROUNDING_S) for t in instants])
        return instants, (batch.pts_seconds - begin).tolist(), list(batch.data.numpy())

    return read


def pyav_reader() -> Reader:
    """PyAV as its users write it: seek to the key frame before each instant, decode up to it."""
    import av

    def read(path: str, instants: list[float]) -> Answer:
        times, pictures = [], []
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            base = stream.time_base
            origin = stream.start_time or 0
            for instant in instants:
                target = origin + int((instant + ROUNDING_S) / base)
                container.seek(target, stream=stream)
                shown = None
                for frame in container.decode(stream):
                    if frame.pts is None:
                        raise ValueError("a frame without a time")
                    if shown is not None and frame.pts > target:
                        break
                    shown = frame
                if shown is None:
                    raise ValueError("no frame")
                times.append(float((shown.pts - origin) * base))
                upright = np.rot90(shown.to_ndarray(format="rgb24"), round(shown.rotation / 90))
                pictures.append(np.ascontiguousarray(upright))
        return instants, times, pictures

    return read


def project_reader(name: str) -> Reader:
    """The project's own decoder: it samples by itself, the same instants wherever it finds the same duration."""
    from mgvr_core.video.decoders import MAX_PIXELS, Request, load
    from mgvr_core.video.sampling import SamplingConfig
    from mgvr_core.video.sampling import instants as sampled

    decode, _ = load(name)

    def read(path: str, instants: list[float]) -> Answer:
        sampling = SamplingConfig(strategy="uniform", frames=len(instants))
        clip = decode(Request(path, sampling, SIDE), MAX_PIXELS)
        return sampled(clip.duration, sampling).tolist(), clip.timestamps.tolist(), list(clip.frames)

    return read


READERS: dict[str, tuple[str, Callable[[], Reader]]] = {
    "decord": ("decord", decord_reader),
    "decord2": ("decord2", decord_reader),
    "torchcodec": ("torchcodec", torchcodec_reader),
    "pyav": ("av", pyav_reader),
    "mgvr-pyav": ("av", lambda: project_reader("pyav")),
    "mgvr-decord": ("decord", lambda: project_reader("decord")),
}
"""The label of each way of decoding: the package whose version it has, and what makes its reader."""


def main(label: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not spoil the answers

    def send(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    package, make = READERS[label]
    try:
        read = make()
        send({"version": f"{package} {importlib.metadata.version(package)}"})
    except Exception as error:
        send({"absent": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"})
        return
    for line in sys.stdin:
        request = json.loads(line)
        try:
            begin = time.perf_counter()
            instants, times, pictures = read(request["path"], request["instants"])
            seconds = time.perf_counter() - begin
        except Exception as error:
            words = " ".join(str(error).split())
            send({"refused": f"{type(error).__name__}: {words[:200]}", "rss": resident()})
            continue
        frames = b"".join(thumbnail(picture).tobytes() for picture in pictures) if request.get("look", True) else b""
        message = {"instants": instants, "times": times, "seconds": seconds, "rss": resident()}
        send({**message, "frames": base64.b64encode(frames).decode()})


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(sys.argv[1])
