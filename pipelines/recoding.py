"""`mgvr corpus recode`: a feature set's fine features in less space, as a set of its own."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from pydantic import Field

from mgvr_core.config import Section
from mgvr_core.errors import MgvrError
from mgvr_core.features.codec import Codec
from mgvr_core.features.contents import Change, Contents
from mgvr_core.features.layout import CodecConfig, coding_of
from mgvr_core.features.schema import FeatureShape, shape_of
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.storage import StorePath
from pipelines.codebooks import train_codebooks
from pipelines.coding import require_same_code
from pipelines.recoded import code, coded, left
from pipelines.runtime import RayConfig, Stopwatch, cluster, summary


class RecodeConfig(Section):
    """mgvr corpus recode."""

    features: StorePath = Field(description="the feature set that is coded: a folder, s3:// or gs://")
    snapshot: int | None = Field(None, gt=0, description="number of an older version; none: the current one")
    out: StorePath = Field(description="the coded set: a folder, or a prefix at s3:// or gs://")
    codec: CodecConfig
    ray: RayConfig = RayConfig()


def recode(config: RecodeConfig) -> Snapshot:
    """Code the fine features of a set in less space, as another set, without touching a video.

    Reads    FEATURES                     a set that mgvr encode wrote, without a codec
    Writes   OUT                          its videos, ids, thumbnails and failures: a set like any other
             OUT/codebooks/*.safetensors  with --codec.values pq, what the features are coded with

    The same command again codes what is new in FEATURES, takes out what is gone from it, and keeps the codebooks that
    OUT has; what a killed run left is taken up.

      mgvr corpus recode --features runs/features --out runs/coded --codec.values pq --codec.tokens 4
      mgvr corpus recode --features s3://bucket/f --out s3://bucket/f8 --codec.values int8
      mgvr corpus recode jobs/recode.yaml
    """
    source, shape, store = _prepare(config)
    codec = _known(config, source, shape, store)
    wanted, before, watch = source.contents(), store.latest(), Stopwatch()
    done = codec is not None and not left(
        source, wanted, coded(store, codec.fingerprint(source.fingerprint, shape.dim))
    )
    with nullcontext() if done else cluster(config.ray):
        if codec is None:
            with watch.stage("train codebooks"):
                codec = train_codebooks(config.codec, source)
            store.write_codebooks(codec)
        fingerprint = codec.fingerprint(source.fingerprint, shape.dim)
        rows = left(source, wanted, coded(store, fingerprint))
        if rows:
            with watch.stage("code"):
                code(source, rows, store, codec, fingerprint)
    after = _land(source, wanted, store, codec)
    print(_summary(source, after, before, sum(map(len, rows.values())), watch))
    return after


def _prepare(config: RecodeConfig) -> tuple[Snapshot, FeatureShape, FeatureStore]:
    """The set that is coded and the one that is written; raises MgvrError for two that do not go together."""
    source, store = FeatureStore(config.features).snapshot(config.snapshot), FeatureStore(config.out)
    if store.url == source.url:
        raise MgvrError(f"--out {store.url} is the set that is to be coded: give a folder of its own")
    if coding_of(source.fingerprint) is not None:
        raise MgvrError(f"{source.url} is coded already: give the set that it was coded from, which has all digits")
    if not source.rows:
        raise MgvrError(f"{source.url} holds no video, so there is nothing to code")
    shape = shape_of(source.schema())
    config.codec.part(shape.dim, None)
    return source, replace(shape, patches=config.codec.tokens_of(shape.patches)), store


def _known(config: RecodeConfig, source: Snapshot, shape: FeatureShape, store: FeatureStore) -> Codec | None:
    """The codec, where there is nothing to train or the set at OUT has its codebooks; None: it is to be trained."""
    store.require_writable()
    codec = None if config.codec.values == "pq" else Codec(config.codec)
    if store.latest():
        head = store.snapshot()
        codec = codec or head.codec()
        if codec is None or codec.config.values != config.codec.values:
            raise MgvrError(f"{store.url} holds features that are not coded so: choose another --out")
        require_same_code(codec, config.codec, shape.dim, store.url)
        if (codec.config.seed, codec.config.train_videos) != (config.codec.seed, config.codec.train_videos):
            raise MgvrError(
                f"{store.url} keeps its codebooks, trained with codec.seed {codec.config.seed} and codec.train_videos "
                f"{codec.config.train_videos}: leave these so, or choose another --out"
            )
    elif codec is None:  # of a run that was killed before it had a version
        codec = next(
            (
                found
                for found in store.codebooks()
                if found.config == config.codec and found.trained_on == source.fingerprint.digest
            ),
            None,
        )
    if codec is not None:
        store.require_fingerprint(codec.fingerprint(source.fingerprint, shape.dim))
    return codec


def _land(source: Snapshot, wanted: Contents, store: FeatureStore, codec: Codec) -> Snapshot:
    """Commit: the coded set lists what the plain one lists, and nothing else."""
    fingerprint = codec.fingerprint(source.fingerprint, shape_of(source.schema()).dim)
    done = coded(store, fingerprint)
    change = Change(
        sources=[done.place(found) for found in wanted.sources.values()],
        gone=[found for key, found in store.contents().sources.items() if key not in wanted.sources],
        failures=list(wanted.failures.values()),
        shards=done.shards,
    )
    after = store.commit(fingerprint, change, _about(source, store, codec))
    held = {(found.id, found.content_hash) for found in after.sources().values() if found.place}
    store.settle([record for record in done.records if held.issuperset(record.ids)])
    return after


def _about(source: Snapshot, store: FeatureStore, codec: Codec) -> dict[str, Any]:
    """As of a set that was encoded so: `mgvr corpus retry` and `verify` start from here."""
    about = {key: value for key, value in source.about.items() if key != "run"}
    if "config" in about:
        features = {**about["config"].get("features", {}), "codec": codec.config.model_dump(mode="json")}
        about["config"] = {**about["config"], "out": store.url, "features": features}
    return {**about, "recoded": {"features": source.url, "snapshot": source.number}}


def _summary(source: Snapshot, after: Snapshot, before: int, videos: int, watch: Stopwatch) -> str:
    written = "nothing new" if after.number == before else f"snapshot {after.number}"
    rows = {
        "videos": f"{videos} coded now, of {source.rows} in {source.url}, snapshot {source.number}",
        "feature set": f"{after.url}, {written}: {after.rows} videos in {len(after.shards)} shards",
        "fingerprint": after.fingerprint.digest,
        "size": f"{after.bytes / max(1, after.rows) / 1024:.1f} KiB a video, "
        f"which were {source.bytes / source.rows / 1024:.1f}",
        "time": ", ".join(f"{name} {seconds:.1f} s" for name, seconds in watch.seconds.items()) or "none",
    }
    return summary("corpus recode: done", rows)
