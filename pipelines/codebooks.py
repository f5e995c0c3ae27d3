"""Codebooks for a set's features, trained by Ray tasks on some of its videos."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import ray
import torch
from torch import Tensor

from mgvr_core.features import codec as codecs
from mgvr_core.features.codec import Codec
from mgvr_core.features.layout import CodecConfig
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.tokens import tensor_of
from pipelines.progress import progress
from pipelines.runtime import available_cores

_MOST = 1 << 15
"""Vectors of each kind that codebooks are trained on at most: 128 for each of their pieces."""
_SHARDS = 16
"""Shards that these come from at most: each is read whole."""


def train_codebooks(config: CodecConfig, source: Snapshot) -> Codec:
    """Codebooks for the features of some videos, drawn by the seed. Needs a Ray connection."""
    draw = random.Random(config.seed)
    numbers = sorted(draw.sample(range(len(source.shards)), min(_SHARDS, len(source.shards))))
    videos, vectors = -(-config.train_videos // len(numbers)), _MOST // len(numbers)
    with progress("train codebooks", len(numbers), "shards read") as counter:
        samples = [
            _sample.remote(source, number, videos, vectors, config, draw.random(), counter) for number in numbers
        ]
        codec: Codec = ray.get(_train.remote(config, source.fingerprint.digest, *samples))
    return codec


def plain_features(table: pa.Table) -> dict[str, Tensor | None]:
    """The features of a plain shard's rows, fp16, and their mask, as `Codec.columns` takes them."""
    names = [name for name in ("video", "frames", "temporal", "patches", "mask") if name in table.schema.names]
    found = {name: tensor_of(tensor_column(table, name)) for name in names}
    return {"patches": None, **found, "mask": found["mask"].bool()}


@ray.remote
def _sample(
    source: Snapshot, number: int, videos: int, vectors: int, config: CodecConfig, seed: float, counter: Any
) -> dict[str, Tensor]:
    """Vectors of some videos of a shard as they will be coded, (n, D) fp16 by fine feature."""
    table = source.read_shard(source.shards[number])
    draw = random.Random(seed)
    rows = sorted(draw.sample(range(len(table)), min(videos, len(table))))
    features = plain_features(table.take(pa.array(rows)))
    del features["video"]
    found = {}
    for part, group in codecs.grouped(config, **features).items():  # type: ignore[arg-type]
        valid = group.vectors[group.valid]
        chosen = sorted(draw.sample(range(len(valid)), min(vectors, len(valid))))
        found[part] = valid[chosen].half()
    counter.add.remote("shards read", 1)
    return found


@ray.remote
def _train(config: CodecConfig, trained_on: str, *samples: dict[str, Tensor]) -> Codec:
    torch.set_num_threads(available_cores())  # nothing else of this job runs meanwhile
    joined = {part: torch.cat([sample[part] for sample in samples]) for part in samples[0]}
    return codecs.train(config, joined, trained_on)
