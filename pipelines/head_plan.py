"""How the training of a scorer begins: everything is checked before Ray starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from mgvr_core.errors import MgvrError
from mgvr_core.features.layout import coding_of
from mgvr_core.features.schema import FeatureShape, shape_of
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.features.store import FeatureStore
from mgvr_core.identity import Fingerprint
from mgvr_core.model.checkpoint import Checkpoint
from mgvr_core.model.load import load_model
from mgvr_core.model.tokenizer import tokenizer_of
from mgvr_core.scorers.catalogue import find
from mgvr_core.scorers.scorer import Read, Setting, Sizes
from mgvr_core.training import identity
from pipelines.fitting import require_places
from pipelines.head_data import Listed, list_videos
from pipelines.head_options import HeadConfig
from pipelines.models import model_fingerprint, require_made_by
from pipelines.splits import captioned_videos, selection_warnings, shared_videos
from pipelines.starting import require_batch

_SETTINGS = ("scorer", "optimiser", "batch_size", "epochs", "seed")
"""What of the configuration shapes a run as it stands there."""


@dataclass(frozen=True)
class HeadPlan:
    """What is known before Ray starts."""

    out: Path
    setting: Setting
    reads: frozenset[Read]
    made_by: Fingerprint
    """The model that made the features: the parts that whoever uses the head must share."""
    train: tuple[Listed, Snapshot]
    validation: tuple[Listed, Snapshot] | None
    run: Fingerprint

    @property
    def splits(self) -> list[tuple[Listed, Snapshot]]:
        """Both, or the one that there is."""
        return [self.train] if self.validation is None else [self.train, self.validation]

    @property
    def missing(self) -> tuple[str, ...]:
        """Uris of captioned videos that their sets do not hold."""
        return tuple(uri for listed, _ in self.splits for uri in listed.missing)


def plan(config: HeadConfig) -> HeadPlan:
    """Check all that can be checked without a cluster; raises MgvrError."""
    kind = find(config.scorer)
    config.compute.require_present(config.ray)
    require_places(config.workers, config.compute, config.ray, "the step is the same")
    given = {"train": config.corpus, "validation": config.validation}
    corpora = {name: corpus for name, corpus in given.items() if corpus is not None}
    videos = captioned_videos(corpora)
    start = load_model(config.model, [text for texts in videos["train"]["captions"].to_pylist() for text in texts])
    snapshot = FeatureStore(config.features).snapshot()
    shape = _shape_of(snapshot, start, config.scorer, kind.reads)
    setting = _setting(start, shape, config.seed, kind.reads)
    if not kind(setting).learned:
        raise MgvrError(f"{config.scorer} has no weights of its own, so there is nothing to train: use it as it is")
    train = _listed(videos["train"], snapshot, "training")
    require_batch(len(train[0].captioned), config.batch_size)
    validation = None
    if "validation" in videos:
        other = snapshot
        if config.validation_features is not None:
            other = FeatureStore(config.validation_features).snapshot()
            if (found := _shape_of(other, start, config.scorer, kind.reads)) != shape:
                raise MgvrError(f"{other.url} has {found}, but {snapshot.url} has {shape}: encode both alike")
        validation = _listed(videos["validation"], other, "validation")
        contents = {"train": train[0].contents, "validation": validation[0].contents}
        if wrong := selection_warnings(corpora, shared_videos(contents), allowed=True):
            raise MgvrError(
                "\n".join(wrong) + "\nGive a part of the training videos as validation, and leave it out of the corpus"
            )
    out = Path(config.out).absolute()
    values = config.model_dump(mode="json")
    parts: dict[str, Any] = {
        **{name: values[name] for name in _SETTINGS},
        "features": snapshot.fingerprint.digest,
        "data": {"train": train[0].digest(), "validation": None if validation is None else validation[0].digest()},
    }
    run = Fingerprint(parts)
    if config.restart == "no":
        identity.require_same(out, run)
    return HeadPlan(out, setting, kind.reads, model_fingerprint(start.model), train, validation, run)


def _shape_of(snapshot: Snapshot, start: Checkpoint, scorer: str, reads: frozenset[Read]) -> FeatureShape:
    """The sizes of a set; raises MgvrError where the scorer can't be trained on it."""
    require_made_by(snapshot, start)
    if coding_of(snapshot.fingerprint) is not None:
        raise MgvrError(
            f"{snapshot.url} is coded, which loses digits that training would learn from: give the set that it was "
            "coded from, or encode the corpus without features.codec"
        )
    shape = shape_of(snapshot.schema())
    if "patches" in reads and not shape.patches:
        raise MgvrError(f"{scorer} reads patches, which {snapshot.url} has not: encode with --features.patches true")
    return shape


def _setting(start: Checkpoint, shape: FeatureShape, seed: int, reads: frozenset[Read]) -> Setting:
    """What a scorer on such features is made for; raises MgvrError where the model has no words and it reads some."""
    model = start.model
    if "words" in reads:
        with torch.inference_mode():
            model.encode_words(tokenizer_of(model.spec)(["a"], model.spec.text_length).ids)
    mixing = model.mixing_for(shape.frames)
    return Setting(
        sizes=Sizes(shape.frames, shape.patches, shape.dim, model.spec.text_length),
        projection=model.video_projection.detach(),
        mixing=None if mixing is None else mixing.detach(),
        scale=model.logit_scale().item(),
        seed=seed,
    )


def _listed(videos: pa.Table, snapshot: Snapshot, role: str) -> tuple[Listed, Snapshot]:
    listed = list_videos(snapshot, videos)
    if not listed.captioned.videos:
        raise MgvrError(
            f"none of the {len(videos)} {role} videos is in {snapshot.url}, neither by its id nor by its uri "
            f"({listed.missing[0]}): give the set that they were encoded into"
        )
    return listed, snapshot
