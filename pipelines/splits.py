"""The data of a training: three splits that share no video, each with its captions and where its videos come from."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from mgvr_core.config import LocalPath, Section
from mgvr_core.datasets.manifest import CorpusConfig
from mgvr_core.errors import MgvrError
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.files import placing
from mgvr_core.identity import Fingerprint, hash_json, hash_lines
from mgvr_core.model.load import ModelConfig
from mgvr_core.training.pairs import Captioned, CaptionUse
from mgvr_core.video.sampling import SamplingConfig
from pipelines.clips import decode_clips
from pipelines.decoding import DecodingConfig
from pipelines.identifying import list_corpus, unique_videos
from pipelines.kept import KeptFiles
from pipelines.models import ComputeConfig
from pipelines.progress import progress
from pipelines.sources import Stream
from pipelines.texts import encode_at_once
from pipelines.training_task import Split
from pipelines.unpacking import unpack_features

SPLITS = ("train", "validation", "test")
_NAMED_TEST = re.compile(r"(?:^|[^a-z])test(?:ing)?(?:[^a-z]|$)", re.IGNORECASE)


class ClipsConfig(Section):
    """Where decoded training clips are."""

    mode: Literal["keep", "stream"] = "keep"
    """keep: every video is decoded once, before the first step, onto disk. stream: decoded again in every epoch while
    the model is at work, and nothing is kept: for a corpus too large to keep. With several captions a video set
    captions to sample, or a video is decoded once for each. Validation and test clips are kept either way."""
    folder: LocalPath | None = None
    """Folder of the kept clips, which several runs may share; none: OUT/clips."""


@dataclass
class Prepared:
    """What the driver knows of the data once it has been listed, read and decoded."""

    splits: dict[str, Split]
    videos: dict[str, dict[str, str]]
    """Of each split: id -> content hash, to tell whether two share a video."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """uri, stage, kind and message."""

    def digests(self) -> dict[str, str]:
        """What a run learns from and selects on, for its identity: captions, and the contents of the videos."""
        return {
            name: hash_json([self.splits[name].captioned.digest(), sorted(self.videos[name].items())])
            for name in ("train", "validation")
            if name in self.splits
        }


def captioned_videos(corpora: dict[str, CorpusConfig]) -> dict[str, pa.Table]:
    """The videos of each split; raises MgvrError where one has no caption."""
    found = {}
    for name, corpus in corpora.items():
        videos = list_corpus(corpus)
        for row in videos.to_pylist():
            if not row["captions"]:
                raise MgvrError(f"{corpus.uri}: {row['uri']} has no caption, so it is no use to {name}: remove the row")
        found[name] = videos
    return found


def selection_warnings(
    corpora: dict[str, CorpusConfig], shared: dict[tuple[str, str], int], allowed: bool
) -> list[str]:
    """What is wrong with how the splits lie to each other, for every report of this run.

    `shared`: how many videos two splits have in common. Raises MgvrError for what is not allowed.
    """
    found = []
    validation = corpora.get("validation")
    if validation is not None and _NAMED_TEST.search(Path(validation.uri).stem):
        found.append(
            f"the validation split {validation.uri} is a test split by its name: the epoch and the fusion weights are "
            "chosen on it, so its figures are no estimate for new queries"
        )
    for (one, other), count in shared.items():
        if count:
            found.append(f"{count} videos of the {other} split are in the {one} split too: its figures are too good")
    if found and not allowed:
        raise MgvrError(
            "\n".join(found)
            + "\nGive splits that share no video (part of the training videos makes a validation split), or set "
            "--selection.allow_test true: every report of this model will then say so"
        )
    return found


def shared_videos(videos: dict[str, dict[str, str]]) -> dict[tuple[str, str], int]:
    """For each two splits how many videos of the second are in the first, by their id or their content."""
    names = [name for name in SPLITS if name in videos]
    found = {}
    for one, other in combinations(names, 2):
        contents = set(videos[one].values())
        found[one, other] = sum(name in videos[one] or content in contents for name, content in videos[other].items())
    return found


def from_videos(
    videos: dict[str, pa.Table],
    captions: CaptionUse,
    clips: ClipsConfig,
    sampling: SamplingConfig,
    size: int,
    decoding: DecodingConfig,
    stall_s: int,
    out: Path,
) -> Prepared:
    """Read and decode the splits' videos; broken ones are listed and left out. Needs a Ray connection."""
    prepared = Prepared({}, {})
    kept = Path(clips.folder).absolute() if clips.folder is not None else out / "clips"
    for name, table in videos.items():
        rows, refused = unique_videos(table, decoding)
        prepared.failures += [{"uri": row["uri"], **json.loads(row["fault"])} for row in refused]
        prepared.videos[name] = dict(zip(rows["id"].to_pylist(), rows["content_hash"].to_pylist(), strict=True))
        if name == "train" and clips.mode == "stream":
            plain = rows.select(["id", "uri", "content_hash", "start", "end"])
            source: KeptFiles | Stream = Stream(plain, sampling, size, decoding, stall_s, str(out / "faults.jsonl"))
            lost: set[str] = set()
        else:
            decoded = decode_clips(rows, sampling, size, decoding, kept, stall_s)
            prepared.failures += decoded.failures
            source, lost = KeptFiles(decoded.paths), {failure["id"] for failure in decoded.failures}
        good = ((row["id"], row["captions"]) for row in rows.to_pylist() if row["id"] not in lost)
        prepared.splits[name] = Split(Captioned.of(good, captions if name == "train" else "expand"), source)
    return prepared


def from_features(
    videos: dict[str, pa.Table],
    captions: CaptionUse,
    snapshot: Snapshot,
    patches: bool,
    model: ModelConfig,
    made_by: Fingerprint,
    compute: ComputeConfig,
    out: Path,
) -> Prepared:
    """Find the splits' videos in a feature set, by id or by uri, and encode their captions once.

    A video that the set does not hold is listed and left out. Needs a Ray connection.
    """
    prepared = Prepared({}, {})
    source = KeptFiles(unpack_features(snapshot, patches, out / "features"))
    by_place = {(key.uri, key.start, key.end): source.id for key, source in snapshot.sources().items()}
    contents = {
        name: digest
        for table in snapshot.tables(["id", "content_hash"])
        for name, digest in zip(table["id"].to_pylist(), table["content_hash"].to_pylist(), strict=True)
    }
    for split, table in videos.items():
        found: dict[str, list[str]] = {}
        for row in table.to_pylist():
            place = (row["uri"], row["start"], row["end"])
            name = row["id"] if row["id"] in contents else by_place.get(place)
            if name is None or name not in contents:
                message = f"{row['uri']} is not in {snapshot.url}"
                prepared.failures.append({"uri": row["uri"], "stage": "read", "kind": "missing", "message": message})
                continue
            # As `unique_videos` merges the captions of one content in two places.
            found[name] = list(dict.fromkeys([*found[name], *row["captions"]])) if name in found else row["captions"]
        prepared.videos[split] = {name: contents[name] for name in found}
        captioned = Captioned.of(found.items(), captions if split == "train" else "expand")
        texts = _encoded(captioned, model, made_by, compute, out / "texts")
        prepared.splits[split] = Split(captioned, source, texts)
    return prepared


def _encoded(
    captioned: Captioned, model: ModelConfig, made_by: Fingerprint, compute: ComputeConfig, folder: Path
) -> str:
    """The file with the vectors of all captions, (captions, D) fp32, computed now or in an earlier run."""
    key = hash_lines(dict(made_by.parts), compute.final_precision(), iter(captioned.captions))[:16]
    file = folder / f"{key}.npy"
    if not file.exists():
        texts = list(dict.fromkeys(captioned.captions))
        with progress("encode texts", len(texts), "encoded") as counter:
            vectors = encode_at_once(texts, model, compute, counter)
        place = {text: row for row, text in enumerate(texts)}
        with placing(file) as partial, partial.open("wb") as handle:
            np.save(handle, vectors[[place[text] for text in captioned.captions]])
    return str(file)
