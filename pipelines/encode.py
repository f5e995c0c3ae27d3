"""Bring a feature set in line with a corpus of videos: what is new or changed is encoded, the rest is left alone.

Reads    corpus.uri: a folder, a glob, a manifest (CSV, Parquet, JSONL with id, uri, captions, start, end) or one video,
         on this machine or in an object store (s3://, gs://)
Writes   OUT/shards/*.parquet          the features, readable by pyarrow, DuckDB and pandas
         OUT/corpus/*.parquet          which videos are listed and where their features are; which failed, and why
         OUT/snapshots/NNNNNNNN.json   which of these make up a version, its fingerprint, and the record of the run
         OUT/codebooks/*.safetensors   with --features.codec.values pq, what the features are coded with
         OUT/pending/*.json            work done but not yet part of a version: the next run takes it up

The same command again encodes what has changed since, and takes up what a killed run left. Every video is decoded in a
child process with a time limit; a broken file costs itself alone, and is listed by `mgvr corpus failures`.

  mgvr encode --corpus.uri videos/ --model.checkpoint runs/demo/train/model --out runs/features
  mgvr encode --corpus.uri s3://bucket/videos --model.name ViT-B-32-quickgelu --model.weights openai --out s3://bucket/f
  mgvr encode jobs/encode.yaml --features.patches false
  mgvr encode jobs/encode.yaml --features.codec.values int8 --features.codec.tokens 4
  mgvr corpus plan jobs/encode.yaml        what the run would do, without doing it

Exit code 1, after the good work is committed, where more than max_failure_rate of the videos failed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import ray.data
from pydantic import Field
from ray.data import ActorPoolStrategy, Dataset

from mgvr_core.config import Section
from mgvr_core.corpus import readings
from mgvr_core.corpus.kinds import Kinds, picks
from mgvr_core.corpus.plan import Plan, decide
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.errors import JobError
from mgvr_core.features.contents import Failure, now
from mgvr_core.features.layout import CodecConfig
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.model.load import ModelConfig
from mgvr_core.storage import StorePath
from mgvr_core.uris import is_url
from mgvr_core.video.sampling import SamplingConfig
from pipelines.coding import with_codec
from pipelines.decoding import Decode, DecodingConfig
from pipelines.encoding import Encode
from pipelines.identifying import read_contents
from pipelines.landing import Landing, land
from pipelines.models import EncoderConfig, FeatureMaker, feature_maker
from pipelines.planning import compare_corpus, corpus_name, describe, require_few_deleted
from pipelines.progress import progress, read_measures
from pipelines.rates import Rates, rate_rows
from pipelines.resuming import finished
from pipelines.runtime import RayConfig, cluster, main, summary
from pipelines.writing import Write


class FeaturesConfig(Section):
    """What is kept of a video."""

    patches: bool = Field(True, description="keep patch features (the largest part; the patch scores need them)")
    codec: CodecConfig | None = Field(
        None, description="how fine features are stored in less space; none: as they are, in fp16"
    )
    codebooks: StorePath | None = Field(
        None, description="codec pq: a set whose codebooks are taken; none: those of the set at out"
    )
    rows_per_shard: int = Field(256, gt=0, description="videos in one Parquet file, and so what a kill can cost")
    writers: int = Field(1, gt=0, description="processes that write shards")
    thumbnail: int = Field(160, ge=0, description="side of the stored thumbnail in pixels; 0: none")


class EncodeConfig(Section):
    """mgvr encode."""

    out: StorePath = Field(
        description="the feature set: a folder, or a prefix at s3:// or gs://; {fingerprint} in it stands for the "
        "fingerprint's short name, so that each model gets a set of its own"
    )
    corpus: CorpusConfig
    model: ModelConfig
    sampling: SamplingConfig = Field(
        SamplingConfig(), description="frames of a video; what is not set here is as the model was trained"
    )
    decoding: DecodingConfig = DecodingConfig()
    features: FeaturesConfig = FeaturesConfig()
    compute: EncoderConfig = EncoderConfig()
    ray: RayConfig = RayConfig()
    retry: Kinds = Field(
        ("transient",), description="kinds of failure that are tried again in a file that has not changed; or all"
    )
    max_failure_rate: float = Field(
        0.05,
        ge=0,
        le=1,
        description="of the videos tried, those left out that failed in the same way before; above it the job fails, "
        "once it has committed the others. A single failure is always allowed, but for a rate of 0",
    )
    max_deleted_rate: float = Field(
        0.5, ge=0, le=1, description="of the corpus; where more is listed no more, nothing is done"
    )
    price_per_hour: float | None = Field(None, ge=0, description="of the machines, in your currency: gives the cost")

    @property
    def other_actors(self) -> int:
        """Actors beside those that decode."""
        return self.compute.workers + self.features.writers

    def tries_again(self, failure: Failure) -> bool:
        """Whether a video that failed so is tried again although its file is the same."""
        return picks(self.retry, failure.kind)


def prepare(config: EncodeConfig) -> tuple[FeatureMaker, FeatureStore]:
    """Everything that can be checked before any work; raises MgvrError where it does not fit together."""
    config.compute.require_present(config.ray)
    features = config.features
    maker = feature_maker(config.model, config.sampling, config.decoding.version(), features.patches, config.compute)
    maker = with_codec(maker, features.codec, features.codebooks, config.out)
    store = FeatureStore(config.out.replace("{fingerprint}", maker.fingerprint.digest))
    store.require_fingerprint(maker.fingerprint)
    return maker, store


def encode(config: EncodeConfig, only_retries: bool = False) -> Snapshot:
    """Run the job; raises MgvrError before Ray starts where the configuration, the corpus or the model is wrong.

    Raises JobError after the commit where too many videos failed. `only_retries` leaves all but failed videos alone.
    """
    began = time.monotonic()
    maker, store = prepare(config)
    compared = compare_corpus(config.corpus, store, config.tries_again, config.decoding, only_retries)
    store.require_writable()
    if maker.codec is not None:
        store.write_codebooks(maker.codec)
    rates = Rates(began, config.price_per_hour)
    kept = readings.names(store.storage)
    contents = readings.known(store.storage, kept, compared)
    uris = [uri for uri in compared.uris_to_read if uri not in contents]
    with cluster(config.ray) if compared.uris_to_read else nullcontext():
        contents |= read_contents(uris, config.decoding, keep=partial(readings.keep, store.storage, compared))
        plan = decide(compared, contents, now())
        require_few_deleted(plan, config.max_deleted_rate)
        done = finished(store, maker.fingerprint, plan, config.tries_again)
        store.renew(done.used(plan))
        rows = done.left
        taken_up = len(plan.encode) - len(rows)
        print(summary("encode: plan", describe(plan, store, len(rows), config.price_per_hour)), file=sys.stderr)
        if len(rows):
            rates = _run(config, maker, store, plan, rows, began)
    landing = land(store, maker, plan, compared, about(config, maker), rates)
    readings.forget(store.storage, kept)
    print(_summary(landing, plan, rates, taken_up))
    if landing.alarming > landing.allowed(config.max_failure_rate):
        lost = f" and {landing.unreachable} could not be reached" if landing.unreachable else ""
        raise JobError(
            f"{landing.failed} of {landing.tried} videos failed{lost}, more than max_failure_rate "
            f"({config.max_failure_rate:.0%}) allows; the others are committed as snapshot {landing.snapshot.number}. "
            f"See: mgvr corpus failures --features {store.url}"
        )
    return landing.snapshot


def about(config: EncodeConfig, maker: FeatureMaker) -> dict[str, Any]:
    """What a snapshot keeps of how it was made."""
    document = config.model_dump(mode="json")
    # What was not set came from the model, and must not look as if the defaults had been asked for.
    document["sampling"] = maker.sampling.model_dump(mode="json")
    # What was relative to this run's folder must be found from another's: `mgvr corpus retry` starts from here.
    document["corpus"]["uri"] = corpus_name(config.corpus)
    places = (("corpus", "root"), ("model", "checkpoint"), ("model", "weights"), ("features", "codebooks"))
    for section, key in places:
        value = document[section][key]
        if isinstance(value, str) and not is_url(value) and Path(value).exists():
            document[section][key] = str(Path(value).absolute())
    return {"model": maker.source, "notes": list(maker.notes), "config": document}


def _run(
    config: EncodeConfig, maker: FeatureMaker, store: FeatureStore, plan: Plan, rows: pa.Table, began: float
) -> Rates:
    """Encode the rows; when it returns, all of them are written down, encoded or failed."""
    with progress("encode", len(rows), "encoded") as counter:
        started = time.monotonic()
        for _ in pipeline(config, maker, store.url, plan.corpus, rows, counter).iter_rows():
            pass
        decoders, _ = config.decoding.plan(len(rows), config.ray.stall_s, config.other_actors)
        return Rates(
            began=began,
            price_per_hour=config.price_per_hour,
            seconds=time.monotonic() - started,
            tried=len(rows),
            workers={"decode": decoders, "encode": config.compute.workers, "write": config.features.writers},
            measures=read_measures(counter),
        )


def pipeline(config: EncodeConfig, maker: FeatureMaker, url: str, corpus: str, rows: pa.Table, counter: Any) -> Dataset:
    """Rows -> decode (CPU processes) -> encode (one model a device) -> shards."""
    compute = config.compute.resolved()
    decoders, block = config.decoding.plan(len(rows), config.ray.stall_s, config.other_actors)
    blocks = [rows.slice(begin, block) for begin in range(0, len(rows), block)]
    decoder = str(maker.fingerprint.parts["decoder"])
    decode = (config.decoding, maker.sampling, maker.image_size, config.features.thumbnail, counter, decoder)
    write = (url, corpus, maker.stored, maker.fingerprint, config.decoding.names, uuid4().hex, counter)
    return (
        ray.data.from_arrow(blocks)
        .map_batches(
            Decode,
            fn_constructor_args=decode,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=decoders),
        )
        .map_batches(
            Encode,
            fn_constructor_args=(config.model, maker.fingerprint, compute, maker.shape, counter, maker.codec),
            batch_size=compute.videos_at_once,
            compute=ActorPoolStrategy(size=compute.workers),
            num_gpus=compute.gpus,
        )
        .map_batches(
            Write,
            fn_constructor_args=write,
            batch_size=config.features.rows_per_shard,
            compute=ActorPoolStrategy(size=config.features.writers),
            num_cpus=0,  # it waits for a disk; where the other stages hold all CPUs, it must find a place all the same
        )
    )


def _summary(landing: Landing, plan: Plan, rates: Rates, taken_up: int) -> str:
    snapshot = landing.snapshot
    listed = sum(count for name, count in plan.counts.items() if name != "deleted")
    counts = {
        "encoded": landing.encoded,
        "failed": landing.failed,
        **{name: plan.counts[name] for name in ("unchanged", "moved")},
        "duplicates": plan.counts["duplicate"] - landing.failed_duplicates,
        "deleted": plan.counts["deleted"],
    }
    rare = {"failed before": plan.counts["failed"], "unreachable": landing.unreachable}
    counts |= {name: count for name, count in rare.items() if count}
    kinds = ", ".join(f"{kind} {count}" for kind, count in landing.kinds.most_common()) or "none"
    written = "nothing new" if snapshot.number == landing.parent else f"snapshot {snapshot.number}"
    rows = {
        "videos": f"{listed} listed, " + ", ".join(f"{count} {name}" for name, count in counts.items()),
        **({"taken up": f"{taken_up} of them, that another run had done"} if taken_up else {}),
        "failures": kinds,
        "feature set": f"{snapshot.url}, {written}: {snapshot.rows} videos in {len(snapshot.shards)} shards",
        "fingerprint": snapshot.fingerprint.digest,
        "size": f"{snapshot.bytes / 2**20:.1f} MiB, {snapshot.bytes / max(1, snapshot.rows) / 1024:.1f} KiB a video",
        **rate_rows(rates),
    }
    return summary("encode: done", rows)


def run(argv: Sequence[str] | None = None) -> int:
    """The command line of this job; returns its exit code."""
    return main(EncodeConfig, encode, "mgvr encode", __doc__, argv)


if __name__ == "__main__":
    sys.exit(run())
