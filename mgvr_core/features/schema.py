"""One row a video: the Arrow schema of a feature shard, and rows to and from it.

A plain set's tensors are Arrow's own fixed-shape tensors, so that pyarrow gives them with their shape, and DuckDB and
pandas as flat lists, without Ray or this package. A coded set's features are packed (see `layout`), for speed.
Sizes: F frames, P patches a frame, D dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mgvr_core.errors import MgvrError
from mgvr_core.features.layout import coding_of, stored_tensors
from mgvr_core.identity import Fingerprint

SCHEMA_VERSION = 3
"""1: without the column `decoder`. 2: without `frame_norms`."""
_VERSION_KEY, _FINGERPRINT_KEY = b"mgvr.schema_version", b"mgvr.fingerprint"
_DTYPE_KEY, _SHAPE_KEY = b"mgvr.dtype", b"mgvr.shape"
_NOT_SEARCHED = ("timestamps", "frame_norms")
_MAY_BE_NAN = ("timestamps", "reach")
"""There NaN is padding, or of patches that are not kept."""


@dataclass(frozen=True)
class FeatureShape:
    """Sizes that all rows of a feature set share."""

    frames: int
    dim: int
    patches: int
    """Patches a frame as stored, so of merged ones their tokens; 0 where no patch features are kept."""


def feature_schema(shape: FeatureShape, fingerprint: Fingerprint) -> pa.Schema:
    """The schema of a shard, coded as the fingerprint says.

    Its metadata carries the schema version and the fingerprint's parts as JSON.
    """
    F, D = shape.frames, shape.dim
    half = pa.float16()
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),  # where it lay when it was encoded; the snapshot knows where now
        pa.field("content_hash", pa.string(), nullable=False),  # SHA-256 of the file's bytes
        pa.field("start", pa.float64()),  # seconds; null: from the file's beginning
        pa.field("end", pa.float64()),  # seconds; null: to the file's end
        pa.field("duration", pa.float64(), nullable=False),  # seconds, of the segment
        pa.field("fps", pa.float64(), nullable=False),  # the file's average frame rate
        pa.field("decoder", pa.string()),  # the one of the fingerprint's that took this file; null: not written down
        pa.field("timestamps", pa.fixed_shape_tensor(pa.float32(), [F]), nullable=False),  # seconds; NaN: padding
        pa.field("mask", pa.fixed_shape_tensor(pa.uint8(), [F]), nullable=False),  # 1: a frame, 0: padding
    ]
    # length of each frame's vector before it was normalised; 0: padding; null: not written down
    norms = pa.field("frame_norms", pa.fixed_shape_tensor(pa.float32(), [F]))
    if (coding := coding_of(fingerprint)) is not None:
        packed = stored_tensors(coding, F, D, shape.patches)
        fields += [norms, *(_packed_field(name, dtype, sizes) for name, (dtype, sizes) in packed.items())]
    else:
        fields += [
            pa.field("video", pa.fixed_shape_tensor(half, [D]), nullable=False),
            pa.field("frames", pa.fixed_shape_tensor(half, [F, D]), nullable=False),
            norms,
            pa.field("temporal", pa.fixed_shape_tensor(half, [F, D]), nullable=False),
        ]
        if shape.patches:
            fields.append(pa.field("patches", pa.fixed_shape_tensor(half, [F, shape.patches, D]), nullable=False))
    fields.append(pa.field("thumbnail", pa.binary()))  # JPEG of up to four frames
    return pa.schema(fields, metadata=_metadata(fingerprint))


def build_table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """A shard's table from columns: tensors as arrays (n, …) of any float type, the others as lists.

    Raises KeyError for a column that is missing, ValueError for one of another shape or with a NaN or infinity in a
    feature.
    """
    return pa.table([_to_arrow(columns[field.name], field) for field in schema], schema=schema)


def tensor_column(table: pa.Table, name: str) -> NDArray[Any]:
    """A tensor column, packed or not, as one array (n, …) in its stored dtype.

    Raises MgvrError for one that holds nulls: what an older schema did not keep has no value to stand for it.
    """
    column = table.column(name)
    if column.null_count:
        raise MgvrError(
            f"{name} is missing in {column.null_count} of {len(column)} videos: an older version of mgvr encoded them "
            "and did not keep it. Encode the corpus again, into another --out"
        )
    dtype, shape = _tensor(table.schema.field(name))
    parts = [_array(chunk, dtype, shape) for chunk in column.chunks]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros((0, *shape), dtype)


def shape_of(schema: pa.Schema) -> FeatureShape:
    """The sizes of a feature schema."""
    frames = schema.field("frames")
    F, width = _tensor(frames)[1]
    D = _tensor(schema.field("video"))[1][0] if _is_packed(frames) else width  # a code may be narrower
    patches = _tensor(schema.field("patches"))[1][1] if "patches" in schema.names else 0
    return FeatureShape(frames=F, dim=D, patches=patches)


def column_bytes(schema: pa.Schema) -> dict[str, int]:
    """Bytes of a video in every column that holds tensors."""
    tensors = [field for field in schema if _is_packed(field) or isinstance(field.type, pa.FixedShapeTensorType)]
    kinds = {field.name: _tensor(field) for field in tensors}
    return {name: dtype.itemsize * int(np.prod(shape)) for name, (dtype, shape) in kinds.items()}


def evidence_bytes(schema: pa.Schema) -> tuple[int, int]:
    """Bytes of a video that a search reads: of its coarse vector, and of what the rerank and its bounds read."""
    sizes = column_bytes(schema)
    coarse = sizes.pop("video")
    return coarse, sum(size for name, size in sizes.items() if name not in _NOT_SEARCHED)


def upgrade(table: pa.Table, columns: Sequence[str] | None = None, whole: pa.Schema | None = None) -> pa.Table:
    """A shard's table, or some columns of it, as the current schema has it; what older versions lacked is null.

    `whole` is the shard's schema, which tells its sizes; it is needed with `columns` alone.
    """
    version = int((table.schema.metadata or {}).get(_VERSION_KEY, SCHEMA_VERSION))
    if version == SCHEMA_VERSION:
        return table
    fingerprint = fingerprint_of(table.schema, "a shard")
    added = {"decoder": pa.string()}
    whole = whole or table.schema
    if "timestamps" in whole.names:  # one number a frame in either; a shard that has lost it is for verify to name
        added["frame_norms"] = whole.field("timestamps").type
    for name, kind in added.items():
        if name not in table.schema.names and (columns is None or name in columns):
            table = table.append_column(pa.field(name, kind), _nulls(len(table), kind))
    if columns is None:
        order = feature_schema(FeatureShape(1, 1, 1), fingerprint).names
        table = table.select([name for name in order if name in table.schema.names])
    return table.replace_schema_metadata(_metadata(fingerprint))


def upgraded(fingerprint: Fingerprint) -> Fingerprint:
    """The fingerprint of an older schema as the current program would write it: no version so far changed a feature."""
    if fingerprint.parts.get("schema") in range(1, SCHEMA_VERSION):
        return Fingerprint({**fingerprint.parts, "schema": SCHEMA_VERSION})
    return fingerprint


def fingerprint_of(schema: pa.Schema, source: str) -> Fingerprint:
    """The fingerprint in a shard's metadata, upgraded; raises MgvrError for a file of another kind or newer version."""
    metadata = schema.metadata or {}
    if _VERSION_KEY not in metadata:
        raise MgvrError(f"{source} is not a feature shard of mgvr: its metadata has no {_VERSION_KEY.decode()}")
    version = int(metadata[_VERSION_KEY])
    if version > SCHEMA_VERSION:
        raise MgvrError(
            f"{source} has schema version {version}, this program reads up to {SCHEMA_VERSION}: "
            "use the version of mgvr that wrote it, or a newer one"
        )
    return upgraded(Fingerprint(json.loads(metadata[_FINGERPRINT_KEY])))


def _metadata(fingerprint: Fingerprint) -> dict[bytes, str]:
    return {_VERSION_KEY: str(SCHEMA_VERSION), _FINGERPRINT_KEY: json.dumps(dict(fingerprint.parts))}


def _nulls(n: int, kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.FixedShapeTensorType):
        return pa.ExtensionArray.from_storage(kind, pa.nulls(n, kind.storage_type))
    return pa.nulls(n, kind)


def _packed_field(name: str, dtype: str, shape: tuple[int, ...]) -> pa.Field:
    width = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return pa.field(name, pa.binary(width), nullable=False, metadata={_DTYPE_KEY: dtype, _SHAPE_KEY: json.dumps(shape)})


def _is_packed(field: pa.Field) -> bool:
    return pa.types.is_fixed_size_binary(field.type) and _SHAPE_KEY in (field.metadata or {})


def _tensor(field: pa.Field) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """What a column's values are: dtype and shape. Raises AttributeError for a column of no tensors."""
    if _is_packed(field):
        return np.dtype(field.metadata[_DTYPE_KEY].decode()), tuple(json.loads(field.metadata[_SHAPE_KEY]))
    return np.dtype(field.type.value_type.to_pandas_dtype()), tuple(field.type.shape)


def _array(chunk: pa.Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if isinstance(chunk, pa.ExtensionArray):
        return np.asarray(chunk.to_numpy_ndarray())
    first = chunk.offset * int(np.prod(shape))
    values = np.frombuffer(chunk.buffers()[1] or b"", dtype)
    return values[first : first + len(chunk) * int(np.prod(shape))].reshape(len(chunk), *shape)


def _to_arrow(values: Any, field: pa.Field) -> pa.Array:
    if not (_is_packed(field) or isinstance(field.type, pa.FixedShapeTensorType)):
        return pa.array(list(values), type=field.type)
    dtype, shape = _tensor(field)
    stored = np.ascontiguousarray(values, dtype=dtype)
    if stored.shape[1:] != shape:
        raise ValueError(f"column {field.name} has shape {stored.shape[1:]}, the schema wants {list(shape)}")
    if field.name not in _MAY_BE_NAN and not np.isfinite(stored).all():
        raise ValueError(f"column {field.name} holds NaN or infinity")
    if _is_packed(field):
        return pa.Array.from_buffers(field.type, len(stored), [None, pa.py_buffer(stored)])
    flat = pa.array(stored.reshape(-1), type=field.type.value_type)
    width = int(np.prod(stored.shape[1:]))
    return pa.ExtensionArray.from_storage(field.type, pa.FixedSizeListArray.from_arrays(flat, width))
