"""Encode videos into a feature set: one row a video, in Parquet shards.

Reads    corpus.uri: a folder, a glob, a manifest (CSV, Parquet, JSONL with id, uri, captions, start, end) or one video
Writes   OUT/shards/*.parquet          the features, readable by pyarrow, DuckDB and pandas
         OUT/failures/*.parquet        every video that could not be encoded, with the reason
         OUT/snapshots/NNNNNNNN.json   which shards make up the set, and the fingerprint of what made them

Every video is decoded in a child process with a time limit; a broken file costs itself alone.

  mgvr encode --corpus.uri videos/ --model.checkpoint runs/demo/train/model --out runs/features
  mgvr encode --corpus.uri videos/ --model.name ViT-B-32-quickgelu --model.weights openai --out runs/features
  mgvr encode jobs/encode.yaml --features.patches false
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data
from pydantic import Field
from ray.data import ActorPoolStrategy, Dataset

from mgvr_core.config import LocalPath, Section
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.errors import MgvrError
from mgvr_core.features.schema import FeatureShape
from mgvr_core.features.store import FeatureStore, ShardInfo, Snapshot
from mgvr_core.identity import Fingerprint
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.video.sampling import SamplingConfig
from pipelines.decoding import Decode, DecodingConfig
from pipelines.encoding import Encode
from pipelines.identifying import list_local_videos, unique_videos
from pipelines.models import (
    ComputeConfig,
    feature_fingerprint,
    sampling_for,
)
from pipelines.progress import progress
from pipelines.runtime import RayConfig, cluster, main, summary
from pipelines.writing import Write, failures_table


class FeaturesConfig(Section):
    """What is kept of a video."""

    patches: bool = Field(True, description="keep patch features (the largest part; the patch scores need them)")
    rows_per_shard: int = Field(256, gt=0, description="videos in one Parquet file")
    thumbnail: int = Field(160, ge=0, description="side of the stored thumbnail in pixels; 0: none")


class EncodeConfig(Section):
    """mgvr encode."""

    out: LocalPath = Field(description="folder of the feature set; a run replaces the current snapshot by its own")
    corpus: CorpusConfig
    model: ModelConfig
    sampling: SamplingConfig = Field(
        SamplingConfig(), description="frames of a video; what is not set here is as the model was trained"
    )
    decoding: DecodingConfig = DecodingConfig()
    features: FeaturesConfig = FeaturesConfig()
    compute: ComputeConfig = ComputeConfig()
    ray: RayConfig = RayConfig()


def encode(config: EncodeConfig) -> Snapshot:
    """Run the job; raises MgvrError before Ray starts where the configuration, the corpus or the model is wrong."""
    began = time.monotonic()
    videos = list_local_videos(config.corpus)
    compute = config.compute.resolved()
    compute.require_present(config.ray)
    store = FeatureStore(Path(config.out))
    checkpoint = load_model(config.model)
    model = checkpoint.model
    sampling = sampling_for(checkpoint, config.sampling)
    if config.features.patches and not model.has_patches:
        raise MgvrError(f"{checkpoint.source} has no patch features: set --features.patches false")
    shape = FeatureShape(sampling.frames, model.spec.dim, model.patches_per_frame if config.features.patches else 0)
    fingerprint = feature_fingerprint(model, sampling, config.decoding.decoder, shape, compute.final_precision())
    store.require_writable()
    store.require_fingerprint(fingerprint)
    parent = store.latest()
    with cluster(config.ray):
        rows, refused = unique_videos(videos)
        with progress("encode", len(rows), "encoded") as counter:
            stages = (config, compute, rows, sampling, model.spec.image_size, shape, fingerprint, counter)
            made = _pipeline(*stages).iter_rows() if len(rows) else ()
            written = [(row["kind"], ShardInfo(**json.loads(row["info"]))) for row in made]
    shards = sorted((info for kind, info in written if kind == "shard"), key=lambda info: info.path)
    failures = [info for kind, info in written if kind == "failures"]
    if refused:
        failures.append(store.write_failures(failures_table(refused, config.decoding.decoder)))
    about = {"model": checkpoint.source, "notes": list(checkpoint.notes), "config": config.model_dump(mode="json")}
    snapshot = store.commit(parent, fingerprint, shards, failures, about)
    print(_summary(snapshot, len(videos), time.monotonic() - began))
    return snapshot


def _pipeline(
    config: EncodeConfig,
    compute: ComputeConfig,
    rows: pa.Table,
    sampling: SamplingConfig,
    size: int,
    shape: FeatureShape,
    fingerprint: Fingerprint,
    counter: Any,
) -> Dataset:
    """Rows -> decode (CPU processes) -> encode (one model a device) -> shards."""
    decoders, block = config.decoding.plan(len(rows), config.ray.stall_s)
    blocks = [rows.slice(begin, block) for begin in range(0, len(rows), block)]
    return (
        ray.data.from_arrow(blocks)
        .map_batches(
            Decode,
            fn_constructor_args=(config.decoding, sampling, size, config.features.thumbnail, counter),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=decoders),
        )
        .map_batches(
            Encode,
            fn_constructor_args=(config.model, fingerprint, compute, shape, counter),
            batch_size=compute.batch_size,
            compute=ActorPoolStrategy(size=compute.workers),
            num_gpus=compute.gpus,
        )
        .map_batches(
            Write,
            fn_constructor_args=(str(Path(config.out).absolute()), shape, fingerprint, config.decoding.decoder),
            batch_size=config.features.rows_per_shard,
            compute=ActorPoolStrategy(size=1),
        )
    )


def _summary(snapshot: Snapshot, listed: int, seconds: float) -> str:
    kinds = Counter(snapshot.failed()["kind"].to_pylist())
    duplicates = kinds.pop("duplicate", 0)
    failed = sum(kinds.values())
    size = sum(shard.bytes for shard in snapshot.shards)
    rows = {
        "videos": f"{listed} listed, {snapshot.rows} encoded, {failed} failed, {duplicates} duplicates",
        "failures": ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()) or "none",
        "features": f"{snapshot.root}, snapshot {snapshot.number}, {len(snapshot.shards)} shards",
        "fingerprint": snapshot.fingerprint.digest,
        "size": f"{size / 2**20:.1f} MiB, {size / max(1, snapshot.rows) / 1024:.1f} KiB a video",
        "time": f"{seconds:.1f} s, {snapshot.rows / seconds:.1f} videos/s",
    }
    return summary("encode: done", rows)


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code."""
    return main(EncodeConfig, encode, "mgvr encode", __doc__, argv)


if __name__ == "__main__":
    sys.exit(run())
