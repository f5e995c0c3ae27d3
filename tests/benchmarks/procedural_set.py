"""A coded feature set of any size, made of numbers: ViT-B/32's shapes, product quantisation, four tokens a frame.

Coarse vectors are random directions, codes random bytes: what a search reads and computes is what it would be for real
features, 5.8 KiB a video, without a model and without a video.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgvr_core.features import codec as coding
from mgvr_core.features.codec import Codec
from mgvr_core.features.contents import Change, Key, Place, Source
from mgvr_core.features.layout import CodecConfig
from mgvr_core.features.schema import FeatureShape, build_table, feature_schema, tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.features.tokens import PqTokens
from mgvr_core.identity import Fingerprint

F, P, D, TOKENS, PIECES = 12, 49, 512, 4, 64
ROWS = 4096
"""Videos a shard: 24 MB."""


def make(folder: Path, videos: int, seed: int = 0) -> Snapshot:
    """The set of so many videos in a folder; one that is there already is used as it is."""
    store = FeatureStore(folder)
    if store.latest():
        return store.snapshot()
    codec = _codec(seed)
    plain = Fingerprint({"weights": "procedural", "activation": "none", "schema": 3, "dtype": "float16"})
    fingerprint = codec.fingerprint(plain, D)
    schema = feature_schema(FeatureShape(F, D, TOKENS), fingerprint)
    store.write_codebooks(codec)
    shards, sources = [], []
    for begin in range(0, videos, ROWS):
        number = min(ROWS, videos - begin)
        names = [f"video-{row:09d}" for row in range(begin, begin + number)]
        uris = [f"{name}.mp4" for name in names]
        shard = store.write_shard(build_table(_columns(codec, names, uris, seed + begin), schema))
        shards.append(shard)
        sources += [
            Source(Key("procedural", uri, None, None), name, name, None, None, Place(shard.path, row))
            for row, (name, uri) in enumerate(zip(names, uris, strict=True))
        ]
        if sys.stderr.isatty():
            print(f"\r{begin + number} of {videos}", end="", file=sys.stderr, flush=True)
    return store.commit(fingerprint, Change(sources=sources, shards=shards), {"made by": "procedural_set.py"})


def queries_of(snapshot: Snapshot, number: int, seed: int = 1) -> NDArray[np.float32]:
    """Unit vectors (n, D), each about 0.4 along the coarse vector of a video of its own: nobody's neighbour else."""
    random = np.random.default_rng(seed)
    shards = random.choice(len(snapshot.shards), min(len(snapshot.shards), 16), replace=False)
    near = np.concatenate([tensor_column(snapshot.read_shard(snapshot.shards[n], ["video"]), "video") for n in shards])
    chosen = near[random.integers(0, len(near), number)].astype(np.float32)
    noise = random.standard_normal((number, D), np.float32) / np.float32(np.sqrt(D))
    found = chosen * 0.44 + noise
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def _codec(seed: int) -> Codec:
    """Codebooks of random directions, whose tokens have about unit length."""
    random = np.random.default_rng(seed)
    sample = torch.nn.functional.normalize(torch.from_numpy(random.standard_normal((2048, D), np.float32)), dim=1)
    config = CodecConfig(values="pq", tokens=TOKENS, subvectors=PIECES, rotate=False)
    return coding.train(config, dict.fromkeys(("frames", "temporal", "patches"), sample), "procedural")


def _columns(codec: Codec, names: list[str], uris: list[str], seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    n = len(names)
    video = random.standard_normal((n, D), np.float32)
    video /= np.linalg.norm(video, axis=1, keepdims=True)
    codes = {
        part: np.frombuffer(random.bytes(n * tokens * PIECES), np.uint8).reshape(n, *shape, PIECES)
        for part, tokens, shape in (
            ("frames", F, (F,)),
            ("temporal", F, (F,)),
            ("patches", F * TOKENS, (F, TOKENS)),
        )
    }
    temporal = PqTokens(torch.from_numpy(codes["temporal"].copy()), codec.codebook("temporal"), None)
    decoded = temporal.vectors(torch.arange(n))  # (n, F, D)
    row, column = np.triu_indices(F)
    longest = np.float32(1.5)  # no decoded token is longer: bounds that hold, and prove nothing
    return {
        "id": names,
        "uri": uris,
        "content_hash": names,
        "start": [None] * n,
        "end": [None] * n,
        "duration": [10.0] * n,
        "fps": [25.0] * n,
        "decoder": ["none"] * n,
        "timestamps": np.tile(np.arange(F, dtype=np.float32), (n, 1)),
        "mask": np.ones((n, F), np.uint8),
        "frame_norms": np.ones((n, F), np.float32),
        "video": video.astype(np.float16),
        **codes,
        "temporal_gram": torch.bmm(decoded, decoded.transpose(1, 2))[:, row, column].numpy(),
        "patch_counts": np.full((n, F, TOKENS), P // TOKENS, np.uint16),
        "reach": np.tile(np.array([-longest, longest, longest]), (n, 3, 1)),
        "thumbnail": [None] * n,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=100_000)
    arguments = parser.parse_args()
    began = time.monotonic()
    made = make(arguments.folder, arguments.videos)
    print(f"\n{made.rows} videos, {made.bytes / made.rows:.0f} bytes a video, {time.monotonic() - began:.0f} s")
