"""How the train job begins: everything is checked, the data is made ready, and the run's folder is claimed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.errors import MgvrError
from mgvr_core.features.layout import coding_of
from mgvr_core.features.schema import shape_of
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint
from mgvr_core.model.checkpoint import Checkpoint
from mgvr_core.model.load import load_model
from mgvr_core.training import identity
from mgvr_core.training.trained import set_trained
from mgvr_core.video.decoders import decoder_version
from mgvr_core.video.sampling import SamplingConfig
from pipelines.environment import versions
from pipelines.fitting import require_places
from pipelines.models import ComputeConfig, model_fingerprint, require_made_by, sampling_for
from pipelines.splits import (
    Prepared,
    captioned_videos,
    from_features,
    from_videos,
    selection_warnings,
    shared_videos,
)
from pipelines.train_options import TrainConfig
from pipelines.training_task import TrainingTask

_SETTINGS = ("loss", "optimiser", "trained", "captions", "batch_size", "epochs", "seed", "rerank", "fusion")
"""What of the configuration shapes a run as it stands there."""
_FOLDERS = ("checkpoints", "model", "start", "ray", "tensorboard")
_FILES = (
    *("run.json", "metrics.jsonl", "faults.jsonl", "cell.json", "test.parquet"),
    *("training.html", "training.md", "training.json"),
)
"""What in a run's folder is the run's own: decoded clips and unpacked features may be another's as well."""


@dataclass(frozen=True)
class Plan:
    """What is known before Ray starts."""

    out: Path
    corpora: dict[str, CorpusConfig]
    videos: dict[str, pa.Table]
    start: Checkpoint
    sampling: SamplingConfig
    snapshot: Snapshot | None
    run: dict[str, Any]
    """The parts of the run's identity but its data."""


def plan(config: TrainConfig) -> Plan:
    """Check all that can be checked without a cluster; raises MgvrError."""
    config.compute.require_present(config.ray)
    given = {"train": config.corpus, "validation": config.validation, "test": config.test}
    corpora = {name: corpus for name, corpus in given.items() if corpus is not None}
    videos = captioned_videos(corpora)
    selection_warnings(corpora, shared_videos(_as_listed(videos)), config.selection.allow_test)
    captions = [text for texts in videos["train"]["captions"].to_pylist() for text in texts]
    require_batch(len(captions) if config.captions == "expand" else len(videos["train"]), config.batch_size)
    start = load_model(config.model, captions)
    model = start.model
    if config.needs_patches and not model.has_patches:
        raise MgvrError(
            f"{start.source} has no patch features: set --loss.patch_weak 0 --loss.tib_patch 0 --rerank.patch_weak 0"
        )
    snapshot = None
    if config.features is None:
        sampling = sampling_for(start, config.sampling)
        decoder_version(config.decoding.decoder)  # an unknown decoder is refused here, not by the first actor
    else:
        snapshot = FeatureStore(config.features).snapshot()
        if coding_of(snapshot.fingerprint) is not None:
            raise MgvrError(
                f"{snapshot.url} is coded, which loses digits that training would learn from: give the set that it was "
                "coded from, or encode the corpus without features.codec"
            )
        sampling = _sampling_of(config, snapshot, start)
    model.mixing_for(sampling.frames)
    set_trained(model, config.trained)
    if config.memory.checkpointing:
        model.recompute_activations()
    require_places(config.workers, config.compute, config.ray, "the step is the same; with memory.chunk it fits")
    out = Path(config.out).absolute()
    values = config.model_dump(mode="json")
    run = {
        **{name: values[name] for name in _SETTINGS},
        **model_fingerprint(model).parts,
        "structure": model.spec.model_dump(mode="json"),
        "sampling": sampling.model_dump(mode="json"),
        "precision": config.compute.final_precision(),
        "select": {"metric": config.selection.metric, "k": config.selection.k},
        "source": config.clips.mode if snapshot is None else snapshot.fingerprint.digest,
        "decoder": None if snapshot is not None else config.decoding.version(),
    }
    if config.restart == "no":
        identity.require_same(out, Fingerprint(run), run.keys())
    return Plan(out, corpora, videos, start, sampling, snapshot, run)


def prepare(config: TrainConfig, plan: Plan) -> Prepared:
    """Read and decode the data, or find the features; raises MgvrError for splits that share videos."""
    if plan.snapshot is None:
        size, stall = plan.start.model.spec.image_size, config.ray.stall_s
        prepared = from_videos(
            plan.videos, config.captions, config.clips, plan.sampling, size, config.decoding, stall, plan.out
        )
    else:
        patches = config.needs_patches
        made_by = model_fingerprint(plan.start.model)
        compute = ComputeConfig(**config.compute.resolved().model_dump())
        prepared = from_features(
            plan.videos, config.captions, plan.snapshot, patches, config.model, made_by, compute, plan.out
        )
    for name, split in prepared.splits.items():
        if not split.captioned.videos:
            raise MgvrError(f"no video of the {name} split could be read: {_first(prepared.failures)}")
    require_batch(len(prepared.splits["train"].captioned), config.batch_size)  # of what could be decoded
    return prepared


def task_of(config: TrainConfig, plan: Plan, prepared: Prepared) -> TrainingTask:
    """The run as plain data, its folder claimed."""
    warnings = selection_warnings(plan.corpora, shared_videos(prepared.videos), config.selection.allow_test)
    run = Fingerprint({**plan.run, "data": prepared.digests()})
    _make_room(plan.out, run, config.restart)
    identity.claim(plan.out, run)
    about = {
        "sampling": plan.sampling.model_dump(mode="json"),
        "started_from": plan.start.source,
        "versions": versions(),
        "run": run.digest,
        "warnings": warnings,
        "config": config.model_dump(mode="json"),
    }
    return TrainingTask(
        start=str(plan.out / "start"),
        out=str(plan.out),
        train=prepared.splits["train"],
        validation=prepared.splits.get("validation"),
        test=prepared.splits.get("test"),
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        compute=config.compute.resolved(),
        trained=config.trained,
        loss=config.loss,
        optimiser=config.optimiser,
        memory=config.memory,
        frames=plan.sampling.frames,
        rerank=config.rerank,
        fusion=config.fusion,
        k=config.selection.k,
        metric=f"R@1_{config.selection.metric}",
        every_steps=config.checkpoints.every_steps,
        keep_best=config.checkpoints.keep_best,
        about=about,
    )


def _as_listed(videos: dict[str, pa.Table]) -> dict[str, dict[str, str]]:
    """Of each split: the ids that the user gave, or else the places; what the files hold is not known yet."""
    found = {}
    for name, table in videos.items():
        places = [(row["id"], f"{row['uri']} {row['start']} {row['end']}") for row in table.to_pylist()]
        found[name] = {given or place: place for given, place in places}
    return found


def require_batch(pairs: int, batch_size: int) -> None:
    """Raise MgvrError where the pairs of an epoch make no batch."""
    if pairs < batch_size:
        raise MgvrError(f"an epoch of {pairs} pairs makes no batch of {batch_size}: lower --batch_size")


def _sampling_of(config: TrainConfig, snapshot: Snapshot, start: Checkpoint) -> SamplingConfig:
    """How a set's videos were sampled; raises MgvrError where the set is not the model's, or lacks what is read."""
    require_made_by(snapshot, start)
    snapshot.require("frame_norms")  # heads start from the vectors as CLIP gave them
    if config.needs_patches and not shape_of(snapshot.schema()).patches:
        raise MgvrError(
            f"the features in {config.features} have no patches: encode with --features.patches true, or set "
            "--loss.patch_weak 0 --rerank.patch_weak 0"
        )
    return SamplingConfig(**snapshot.fingerprint.parts["sampling"])  # type: ignore[arg-type]


def _make_room(out: Path, run: Fingerprint, restart: str) -> None:
    """Throw away what the folder holds of another run, or of any; raises MgvrError where that was not asked for."""
    try:
        identity.require_same(out, run)
    except MgvrError:
        if restart == "no":
            raise
        _throw_away(out)
    else:
        if restart == "yes":
            _throw_away(out)


def _throw_away(out: Path) -> None:
    """Remove a run from its folder: what is decoded or unpacked does not belong to it alone, and stays.

    A folder that no run has claimed is left as it is: its `model` may be something else.
    """
    if not identity.is_claimed(out):
        return
    for name in _FOLDERS:
        if (out / name).exists():
            shutil.rmtree(out / name)  # what can't be removed would be gone on from
    for name in _FILES:
        (out / name).unlink(missing_ok=True)


def _first(failures: list[dict[str, str]]) -> str:
    return failures[0]["message"] if failures else "there is none"
