"""The procedural corpus, made by Ray tasks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import ray

from mgvr_core.datasets.procedural import write_manifests, write_videos
from mgvr_core.datasets.scenes import SPLITS, ProceduralConfig, Split, count
from pipelines.progress import progress

_CHUNK = 50
"""Videos that one task makes."""


def make_corpus(folder: Path, config: ProceduralConfig) -> None:
    """Write the procedural corpus by Ray tasks; videos that are there already, of the same corpus, are kept."""
    made_with = folder / "config.json"
    text = config.model_dump_json(indent=1)
    if made_with.exists() and made_with.read_text(encoding="utf-8") != text:
        for split in SPLITS:  # videos of other settings would get these settings' captions
            shutil.rmtree(folder / split, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    made_with.write_text(text, encoding="utf-8")
    write_manifests(folder, config)
    chunks: list[tuple[Split, list[int]]] = []
    for split in SPLITS:
        missing = [
            index for index in range(count(config, split)) if not (folder / split / f"{split}-{index:05d}.mp4").exists()
        ]
        chunks += [(split, missing[begin : begin + _CHUNK]) for begin in range(0, len(missing), _CHUNK)]
    with progress("corpus", sum(len(indices) for _, indices in chunks), "videos") as counter:
        ray.get([_write_chunk.remote(folder.absolute(), config, split, indices, counter) for split, indices in chunks])


@ray.remote
def _write_chunk(folder: Path, config: ProceduralConfig, split: Split, indices: list[int], counter: Any) -> None:
    write_videos(folder, config, split, indices)
    counter.add.remote("videos", len(indices))
