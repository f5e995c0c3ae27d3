"""Reading a snapshot again, all of it, to see that it holds what it says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from mgvr_core.errors import MgvrError
from mgvr_core.features import contents
from mgvr_core.features.codec import Codec
from mgvr_core.features.contents import Contents, Place, ShardInfo
from mgvr_core.features.layout import PARTS, coding_of
from mgvr_core.features.reach import reach
from mgvr_core.features.schema import FeatureShape, feature_schema, fingerprint_of, shape_of, tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.identity import hash_file
from mgvr_core.storage import LocalStorage

_NORM_ATOL = 5e-3
"""Unit vectors in half precision: 2^-11 an element, and bfloat16 towers before that."""


_REACH_ATOL = 1e-5
"""Reach comes out anew but for the rounding of sums: this is a check for what lies in the file, not for the bound."""


@dataclass(frozen=True)
class Findings:
    """What verifying a snapshot brought to light."""

    shards: int
    rows: int
    problems: tuple[str, ...]
    """One line each; none: the snapshot is sound."""


def verify(snapshot: Snapshot, report: Callable[[int], None] = lambda rows: None) -> Findings:
    """Hashes, schema, fingerprint, unique ids, finite numbers, lengths, and that sources and rows belong together.

    Of a coded set also that its codebooks are there and its tokens as far from the coarse vectors as it says.

    `report` is called with the number of rows after each shard.
    """
    problems: list[str] = []
    for info in (snapshot.sources_file, *snapshot.failure_files):
        if info is not None:
            problems += _hash_problems(snapshot, info.path, info.sha256)
    owners: _Owners | None = None
    try:
        whole = snapshot.contents()
        owners = _owners(whole)
        contents.require_known(whole)
    except MgvrError as error:
        problems.append(str(error))
    codec = None
    try:
        codec = snapshot.codec()
    except MgvrError as error:
        problems.append(str(error))
    seen: dict[str, str] = {}
    read: set[str] = set()
    shape: FeatureShape | None = None
    rows = 0
    for shard in snapshot.shards:
        problems += _hash_problems(snapshot, shard.path, shard.sha256)
        try:
            table = snapshot.read_shard(shard)
        except MgvrError as error:
            problems.append(str(error))
            continue
        wrong = list(_schema_problems(snapshot, shard, table, shape))
        problems += wrong
        if wrong:
            continue
        shape = shape_of(table.schema)
        problems += _feature_problems(shard, table)
        if codec is not None:
            problems += _code_problems(shard, table, codec)
        live = shard.live_rows.tolist()
        for row, name, digest in zip(live, table["id"].to_pylist(), table["content_hash"].to_pylist(), strict=True):
            if name in seen:
                problems.append(f"{shard.path}: the id {name} is in {seen[name]} already")
            seen[name] = shard.path
            if owners is not None and owners.pop(Place(shard.path, row), None) != {(name, digest)}:
                problems.append(f"{shard.path}, row {row}: {name} is not what the list of sources says it is")
        read.add(shard.path)
        rows += len(table)
        report(len(table))
    for place in owners or ():
        if place.shard in read:
            problems.append(f"{place.shard}: a source points at row {place.row}, which is no part of the set")
    return Findings(len(snapshot.shards), rows, tuple(problems))


_Owners = dict[Place, set[tuple[str | None, str | None]]]


def _owners(whole: Contents) -> _Owners:
    """Which ids and content hashes the sources say to be at a place."""
    owners: _Owners = defaultdict(set)
    for source in whole.sources.values():
        if source.place:
            owners[source.place].add((source.id, source.content_hash))
    return owners


def _hash_problems(snapshot: Snapshot, path: str, expected: str) -> Iterator[str]:
    copy = None
    try:
        copy = snapshot.storage.download(path)
        found = hash_file(copy)
    except OSError as error:
        yield f"{path} can't be read: {error}"
        return
    finally:
        if copy is not None and not isinstance(snapshot.storage, LocalStorage):
            copy.unlink(missing_ok=True)
    if found != expected:
        yield f"{path} has been changed: its SHA-256 is {found[:16]}…, the snapshot says {expected[:16]}…"


def _schema_problems(
    snapshot: Snapshot, shard: ShardInfo, table: pa.Table, shape: FeatureShape | None
) -> Iterator[str]:
    """Against the schema of the sizes that the shards before have; None: this is the first."""
    try:
        shape = shape or shape_of(table.schema)
    except (KeyError, AttributeError):  # no such column, or no tensor
        yield f"{shard.path} has no frame features"
        return
    for field in feature_schema(shape, snapshot.fingerprint):
        if field.name not in table.schema.names:
            yield f"{shard.path} has no column {field.name}"
        elif table.schema.field(field.name).type != field.type:
            yield f"{shard.path}: {field.name} is {table.schema.field(field.name).type}, not {field.type}"
        elif not field.nullable and table[field.name].null_count:
            yield f"{shard.path}: {field.name} is null in {table[field.name].null_count} rows"
    if "patches" in table.schema.names and not shape.patches:
        yield f"{shard.path} has patches, which the shards before have not"


def _feature_problems(shard: ShardInfo, table: pa.Table) -> Iterator[str]:
    if not len(table):
        return
    names = table["id"].to_pylist()
    mask = tensor_column(table, "mask").astype(bool)  # (n, F)
    if not mask.any(axis=1).all():
        yield f"{shard.path}: {names[int((~mask.any(axis=1)).argmax())]} has no frame"
    plain = coding_of(fingerprint_of(table.schema, shard.path)) is None
    for column in ("video", "frames", "temporal", "patches") if plain else ("video",):
        if column not in table.schema.names:
            continue
        values = tensor_column(table, column).astype(np.float32)
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if bad.any():
            yield f"{shard.path}: {column} of {names[int(bad.argmax())]} holds NaN or infinity"
        norms = np.linalg.norm(values, axis=-1).reshape(len(values), -1)  # (n, 1), (n, F) or (n, F * P)
        off = np.abs(norms - 1) > _NORM_ATOL
        if column != "video":
            off &= np.repeat(mask, norms.shape[1] // mask.shape[1], axis=1)
        if off.any():
            yield f"{shard.path}: {column} of {names[int(off.any(axis=1).argmax())]} is not of unit length"
    known = table["frame_norms"].is_valid().to_numpy()  # (n,)
    lengths = tensor_column(table.filter(known), "frame_norms")  # (m, F)
    bad = ~(np.isfinite(lengths) & ((lengths > 0) | ~mask[known])).all(axis=1)
    if bad.any():
        yield f"{shard.path}: frame_norms of {names[int(np.flatnonzero(known)[bad.argmax()])]} holds what is no length"


def _code_problems(shard: ShardInfo, table: pa.Table, codec: Codec) -> Iterator[str]:
    """Whether tokens are as far from the coarse vectors as the set says, which proofs of a search rest on."""
    if not len(table):
        return
    names = table["id"].to_pylist()
    said = tensor_column(table, "reach")  # (n, 3, 3)
    video = torch.from_numpy(tensor_column(table, "video").copy())
    mask = torch.from_numpy(tensor_column(table, "mask").astype(bool))  # (n, F)
    for number, part in enumerate(PARTS):
        if part not in table.schema.names:
            continue
        columns = {name: tensor_column(table, name) for name in codec.columns_of(part)}
        valid = mask
        if "patch_counts" in columns:
            valid = torch.from_numpy(columns["patch_counts"].astype(np.int64)).flatten(1) > 0  # (n, F * K)
        elif part == "patches":
            valid = mask.repeat_interleave(columns[part].shape[2], dim=1)  # (n, F * P)
        for row, name in enumerate(names):
            one = slice(row, row + 1)
            tokens = codec.decode(part, {name: values[one] for name, values in columns.items()})
            found = reach(video[one], tokens, valid[one])[0].numpy()
            if not np.allclose(found, said[row, number], rtol=0, atol=_REACH_ATOL):  # NaN is no reach
                yield f"{shard.path}: reach of {part} of {name} is not that of its tokens"
                break
