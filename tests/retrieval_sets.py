"""Small feature sets to search, with the fingerprint of no model: in several shards, with rows removed, and coded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import drawn
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mgvr_core.features.codec import Codec, grouped, train
from mgvr_core.features.contents import Change, Key, Place, Source
from mgvr_core.features.layout import CodecConfig
from mgvr_core.features.schema import FeatureShape, build_table, feature_schema
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint

PLAIN = Fingerprint({"weights": "abc", "schema": 3})
F, P, D = 3, 4, 16


def near_features(seed: int, videos: int) -> dict[str, Tensor]:
    return drawn.near_features(seed, videos, (F, P, D), 0.0, (1.0, 0.4, 0.2, 0.4))


def codec_of(config: CodecConfig | None) -> Codec | None:
    """The codec of a configuration, its codebooks trained on features like those of a set."""
    if config is None or config.values != "pq":
        return None if config is None else Codec(config)
    some = near_features(1000, 100)
    del some["video"]
    groups = grouped(config, **some)
    return train(config, {part: group.vectors[group.valid] for part, group in groups.items()}, PLAIN.digest)


def made_set(
    folder: Path,
    names: Sequence[Sequence[str]],
    gone: Sequence[str] = (),
    features: dict[str, Tensor] | None = None,
    config: CodecConfig | None = None,
) -> Snapshot:
    """A set of shards with the given ids, one after another in `features`; then some videos are taken out again."""
    store, codec = FeatureStore(folder), codec_of(config)
    total = sum(map(len, names))
    features = features or near_features(0, total)
    fingerprint = PLAIN if codec is None else codec.fingerprint(PLAIN, D)
    if codec is not None:
        store.write_codebooks(codec)
        patches = codec.config.tokens_of(P)
        columns: dict[str, NDArray] = {**codec.columns(**features), "mask": features["mask"].numpy()}
    else:
        patches = features["patches"].shape[2]
        columns = {name: values.numpy() for name, values in features.items()}
    schema = feature_schema(FeatureShape(F, D, patches), fingerprint)
    begin, sources, shards = 0, [], []
    for ids in names:
        n = len(ids)
        table = build_table(
            {
                "id": ids,
                "uri": [f"before/{name}.mp4" for name in ids],
                "content_hash": [hash_of(name) for name in ids],
                "start": [None] * n,
                "end": [None] * n,
                "duration": [2.0] * n,
                "fps": [25.0] * n,
                "decoder": ["pyav"] * n,
                "timestamps": np.zeros((n, F)),
                "frame_norms": np.ones((n, F)),
                "thumbnail": [None] * n,
                **{name: values[begin : begin + n] for name, values in columns.items()},
            },
            schema,
        )
        shard = store.write_shard(table)
        shards.append(shard)
        sources += [
            Source(Key("made", f"clips/{name}.mp4"), name, hash_of(name), 1, "mtime:1", Place(shard.path, row))
            for row, name in enumerate(ids)
        ]
        begin += n
    snapshot = store.commit(fingerprint, Change(sources=sources, shards=shards), {})
    if gone:
        leaving = [source for source in sources if source.id in set(gone)]
        snapshot = store.commit(fingerprint, Change(gone=leaving), {})
    return snapshot


def hash_of(name: str) -> str:
    return name.encode().hex().rjust(64, "0")[-64:]


def order_of(snapshot: Snapshot) -> dict[int, NDArray[np.int64]]:
    """Shard number -> the places of its rows in the order of all ids, looked up one by one."""
    ids = [table["id"].to_pylist() for table in snapshot.tables(["id"])]
    ranked = sorted(name for names in ids for name in names)
    return {number: np.array([ranked.index(name) for name in names]) for number, names in enumerate(ids)}
