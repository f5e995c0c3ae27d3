"""Which columns a coded feature set has: what fine features are turned into, and how their bytes lie.

A plain set keeps every vector as float16. A coded one keeps, of V videos with F frames, N = F * K patch tokens and D
dimensions, each tensor as a column of bytes of one length, which Parquet reads faster than lists of numbers. Its
metadata says how to read them: `mgvr.dtype` (NumPy's name) and `mgvr.shape` (JSON).
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mgvr_core.config import Section
from mgvr_core.errors import MgvrError
from mgvr_core.identity import Fingerprint

PARTS = ("frames", "temporal", "patches")
"""The fine features, each with a code of its own."""
CODING_VERSION = 1
"""Of the code: what else shapes a coded feature than its configuration and its codebooks."""
Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Columns by name: dtype and shape of a video's."""


class CodecConfig(Section):
    """How fine features are stored."""

    values: Literal["fp16", "int8", "pq"] = Field(
        description="fp16: as they are; int8: a byte a dimension and a scale a vector; pq: product quantisation, with "
        "codebooks that are trained on the features"
    )
    tokens: int = Field(
        0, ge=0, description="tokens that a frame's patches are merged into, each with its count; 0: all patches"
    )
    subvectors: int | None = Field(None, gt=0, description="pq: bytes a vector; none: an eighth of its dimensions")
    rotate: bool = Field(True, description="pq: turn the space so that the pieces share the variance (OPQ)")
    seed: int = Field(0, description="pq: of the videos that codebooks are trained on, and of where they start")
    train_videos: int = Field(2048, gt=0, description="pq: videos that codebooks are trained on")

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> Self:
        idle = [name for name in _PQ_ONLY if getattr(self, name) != type(self).model_fields[name].default]
        if self.values != "pq" and idle:
            raise ValueError(f"{', '.join(idle)} does nothing with values {self.values}: leave it out, or take pq")
        return self

    def pieces(self, dim: int) -> int:
        """M, bytes a vector of product quantisation; raises MgvrError where D is no multiple of it."""
        M = self.subvectors or max(1, dim // 8)
        if dim % M:
            raise MgvrError(f"codec.subvectors: {dim} dimensions can't be cut into {M} pieces of one length")
        return M

    def tokens_of(self, patches: int) -> int:
        """Tokens a frame, of the patches that a model makes; raises MgvrError where there is nothing to merge."""
        if self.tokens and not patches:
            raise MgvrError(f"codec.tokens {self.tokens}: there are no patches to merge; set it to 0")
        if self.tokens and self.tokens >= patches:
            raise MgvrError(f"codec.tokens {self.tokens}: a frame has {patches} patches; set it lower, or 0 for all")
        return self.tokens or patches

    def part(self, dim: int, codebooks: str | None) -> dict[str, object]:
        """The part `codec` of a coded set's fingerprint; `codebooks` is the SHA-256 of their file."""
        pq = self.values == "pq"
        return {
            "values": self.values,
            "tokens": self.tokens,
            "subvectors": self.pieces(dim) if pq else None,
            "rotate": self.rotate if pq else None,
            "codebooks": codebooks,
            "version": CODING_VERSION,
        }


_PQ_ONLY = ("subvectors", "rotate", "seed", "train_videos")


def coding_of(fingerprint: Fingerprint) -> dict[str, Any] | None:
    """The part `codec` of a fingerprint; None for a plain set. Raises MgvrError for a newer version's."""
    part = fingerprint.parts.get("codec")
    if part is None:
        return None
    assert isinstance(part, dict)
    if part["version"] > CODING_VERSION:
        raise MgvrError(
            f"the features are coded in version {part['version']}, this program reads up to {CODING_VERSION}: "
            "use the version of mgvr that wrote them, or a newer one"
        )
    return part


def describe(coding: dict[str, Any] | None) -> str:
    """A fingerprint's part `codec` for a reader."""
    if coding is None:
        return "none"
    pieces = f", {coding['subvectors']} bytes a vector" if coding["subvectors"] else ""
    merged = f", patches merged into {coding['tokens']} tokens a frame" if coding["tokens"] else ""
    return f"{coding['values']}{pieces}{merged}"


def columns_of(part: str, values: str, tokens: int) -> list[str]:
    """The columns that one fine feature is stored in; the first holds its vectors, or their codes."""
    columns = [part, *([f"{part}_scale"] if values == "int8" else [])]
    if part == "temporal" and values == "pq":
        columns.append("temporal_gram")
    if part == "patches" and tokens:
        columns.append("patch_counts")
    return columns


def stored_tensors(coding: dict[str, Any], frames: int, dim: int, tokens: int) -> Tensors:
    """The packed columns of a coded set, in order; `tokens`: K, patch tokens a frame, 0 where none are kept.

    video            (D,) fp16
    frames, temporal (F, D) and patches (F, K, D): fp16, or int8; with pq (…, M) uint8
    *_scale          int8: what their codes are multiplied by, fp32; (F,) and (F, K)
    temporal_gram    pq: upper triangle, row by row, of the Gram matrix of the decoded temporal frames, fp32
    patch_counts     merged: (F, K) uint16, how many patches a token is the mean of; 0: an empty place
    reach            (3, 3) fp32, see `mgvr_core.features.reach`
    """
    width = coding["subvectors"] if coding["values"] == "pq" else dim
    dtype = {"fp16": "float16", "int8": "int8", "pq": "uint8"}[coding["values"]]
    sizes = {"frames": (frames,), "temporal": (frames,), **({"patches": (frames, tokens)} if tokens else {})}
    found: Tensors = {"video": ("float16", (dim,))}
    for part, size in sizes.items():
        special: Tensors = {
            part: (dtype, (*size, width)),
            f"{part}_scale": ("float32", size),
            "temporal_gram": ("float32", (frames * (frames + 1) // 2,)),
            "patch_counts": ("uint16", size),
        }
        found |= {name: special[name] for name in columns_of(part, coding["values"], coding["tokens"])}
    return found | {"reach": ("float32", (len(PARTS), 3))}
