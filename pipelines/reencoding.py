"""Encoding a few videos of a feature set again, to see that it still comes out as it is stored.

Of a coded set that is compared which its code keeps: the coarse vectors always, the fine ones where they are stored as
fp16 or int8, and patches where they are not merged. Product quantisation loses more than an encoder's noise.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from mgvr_core.config import Section, parse
from mgvr_core.corpus.files import hash_video
from mgvr_core.errors import MgvrError
from mgvr_core.features.codec import Codec
from mgvr_core.features.contents import Source
from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from pipelines.decoding import Decode
from pipelines.encode import EncodeConfig, prepare
from pipelines.encoding import Encode
from pipelines.progress import Silent


class ReencodingConfig(Section):
    """Which videos are encoded again, and how near they must come."""

    videos: int = Field(4, ge=0, description="how many, drawn by chance; 0: none")
    seed: int = Field(0, description="of the draw")
    min_cosine: float = Field(
        0.999, gt=0, le=1, description="between every stored vector and its like; batches round differently"
    )


@dataclass(frozen=True)
class Reencoded:
    """What encoding a sample again brought to light."""

    videos: int = 0
    cosine: float | None = None
    """The smallest over all vectors of all videos."""
    skipped: tuple[str, ...] = ()
    """Videos of the sample that are not as they were encoded: changed, or not to be had."""
    problems: tuple[str, ...] = ()


def reencode(snapshot: Snapshot, config: ReencodingConfig) -> Reencoded:
    """Encode a sample in this process, by the configuration that the snapshot keeps, and compare."""
    if not config.videos or not snapshot.rows or "config" not in snapshot.about:
        return Reencoded()
    kept = parse(EncodeConfig, snapshot.about["config"], f"snapshot {snapshot.number} of {snapshot.url}")
    try:
        maker, _ = prepare(kept.model_copy(update={"out": snapshot.url}))
    except MgvrError as error:
        return Reencoded(skipped=(f"nothing is encoded again: {error}",))
    sources = sorted({s.id: s for s in snapshot.sources().values() if s.place}.values(), key=lambda s: str(s.id))
    sample = random.Random(config.seed).sample(sources, min(config.videos, len(sources)))
    intact = [source for source in sample if hash_video(source.key.uri) == source.content_hash]
    skipped = tuple(f"{source.key.uri} is not as it was encoded" for source in sample if source not in intact)
    if not intact:
        return Reencoded(skipped=skipped)
    compute = kept.compute.resolved()
    decode = Decode(kept.decoding, maker.sampling, maker.image_size, 0, Silent())
    model = Encode(kept.model, maker.fingerprint, compute, maker.shape, Silent())
    codec = snapshot.codec()
    problems, cosines = [], []
    for begin in range(0, len(intact), compute.videos_at_once):
        part = intact[begin : begin + compute.videos_at_once]
        batch = model(decode(_table(part)))
        for row, source in enumerate(part):
            if batch["fault"][row]:
                problems.append(f"{source.key.uri} can't be encoded any more: {batch['fault'][row]}")
                continue
            stored = _stored(snapshot, source, codec)
            cosine = min(_cosine(stored[name], batch[name][row], stored["mask"]) for name in stored if name != "mask")
            cosines.append(cosine)
            if not cosine >= config.min_cosine:  # NaN is no cosine
                problems.append(f"{source.key.uri} comes out otherwise than stored: cosine {cosine:.5f}")
    decode.close()
    return Reencoded(len(intact), min(cosines, default=None), skipped, tuple(problems))


def _table(sources: list[Source]) -> pa.Table:
    rows = [
        {
            "id": source.id,
            "uri": source.key.uri,
            "content_hash": source.content_hash,
            "start": source.key.start,
            "end": source.key.end,
        }
        for source in sources
    ]
    return pa.Table.from_pylist(rows)


def _stored(snapshot: Snapshot, source: Source, codec: Codec | None) -> dict[str, NDArray[np.float32]]:
    """The vectors of a video that can be compared with such as are made now, and its mask."""
    shard = next(shard for shard in snapshot.shards if source.place and shard.path == source.place.shard)
    table = snapshot.read_shard(shard)
    row = table["id"].to_pylist().index(source.id)
    fine = [name for name in ("frames", "temporal", "patches") if name in table.schema.names]
    if codec is not None:
        fine = [] if codec.config.values == "pq" else fine
        fine = [name for name in fine if name != "patches" or not codec.config.tokens]
    found = {name: tensor_column(table, name)[row].astype(np.float32) for name in ("mask", "video", *fine)}
    for name in fine if codec is not None and codec.config.values == "int8" else ():
        found[name] *= tensor_column(table, f"{name}_scale")[row][..., None]
    return found


def _cosine(stored: NDArray[np.float32], made: NDArray[np.float16], mask: NDArray[np.float32]) -> float:
    """The smallest cosine between vectors of two tensors (…, D); of a tensor a frame (F, …, D), the shown frames'."""
    if stored.ndim > 1:
        stored, made = stored[mask > 0], made[mask > 0]
    left, right = stored.reshape(-1, stored.shape[-1]), made.astype(np.float32).reshape(-1, stored.shape[-1])
    dots = np.einsum("nd,nd->n", left, right)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float((dots / np.maximum(norms, 1e-12)).min())  # no direction at all is another one
