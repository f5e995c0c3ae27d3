"""The procedural corpus as files: mp4 videos, a manifest and a query file for each split."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from mgvr_core.datasets.render import render
from mgvr_core.datasets.scenes import SPLITS, ProceduralConfig, Split, count, make_scene


def write_videos(folder: Path, config: ProceduralConfig, split: Split, indices: Iterable[int]) -> None:
    """Draw and write some videos of a split, as `SPLIT/ID.mp4`; chunks can be written in any order and in parallel."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    for index in indices:
        scene = make_scene(config, split, index)
        write_video(folder / _uri(split, scene.id), render(scene), scene.fps)


def write_manifests(folder: Path, config: ProceduralConfig) -> None:
    """Write `SPLIT.jsonl` (id, uri, captions) and `SPLIT-queries.jsonl` (id, text, relevant) for every split.

    They say what `write_videos` writes, and need none of it to be there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        scenes = [make_scene(config, split, index) for index in range(count(config, split))]
        _write_lines(
            folder / f"{split}.jsonl",
            ({"id": scene.id, "uri": _uri(split, scene.id), "captions": scene.captions} for scene in scenes),
        )
        _write_lines(
            folder / f"{split}-queries.jsonl",
            (
                {"id": f"{scene.id}-{number}", "text": caption, "relevant": [scene.id]}
                for scene in scenes
                for number, caption in enumerate(scene.captions)
            ),
        )


def write_video(path: Path, frames: NDArray[np.uint8], fps: int) -> None:
    """Write frames (T, H, W, 3) uint8 RGB, H and W even, as H.264 in mp4; the file appears when it is whole."""
    partial = _partial(path)
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # One thread: many files are written side by side, and the bytes must not hang on the number of cores.
        stream.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    partial.replace(path)


def _uri(split: Split, name: str) -> str:
    return f"{split}/{name}.mp4"


def _write_lines(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    partial = _partial(path)
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in records)
    partial.replace(path)


def _partial(path: Path) -> Path:
    """A name beside `path` of this process's own, hidden from whoever lists the folder meanwhile."""
    return path.with_name(f".{path.name}.{os.getpid()}")
