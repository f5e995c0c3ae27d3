"""Fine features to the columns of a coded set, and back.

How a code is read at speed, for scores, is `tokens`; what the columns are is `layout`. Sizes: V videos, F frames,
P patches a frame, N tokens a video, D dimensions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from mgvr_core.config import parse
from mgvr_core.errors import MgvrError
from mgvr_core.features.layout import PARTS, CodecConfig, columns_of
from mgvr_core.features.merging import merge
from mgvr_core.features.pq import Codebook
from mgvr_core.features.pq import train as train_codebook
from mgvr_core.features.reach import reach
from mgvr_core.features.tokens import quantise, tensor_of
from mgvr_core.identity import Fingerprint

_AT_ONCE = 16
"""Videos whose tokens are in float64 at the same time."""
_ABOUT = "mgvr"
"""The one key of the codebook file's metadata: two might be written in either order."""


class Group(NamedTuple):
    """The tokens of one granularity before they are coded."""

    vectors: Tensor
    """(V, N, D) float32; zeros where there is none."""
    valid: Tensor
    """(V, N) bool."""
    counts: Tensor | None = None
    """(V, N) int64, of merged patches."""


@dataclass(frozen=True)
class Codec:
    """How the fine features of a set are coded: a configuration, and with `pq` the codebooks that were trained."""

    config: CodecConfig
    books: Mapping[str, Codebook] = field(default_factory=dict)
    """By fine feature."""
    trained_on: str = ""
    """The fingerprint's short name of the plain features that the codebooks were trained on."""
    file: bytes = b""
    """The codebooks as they are stored, so that they have one hash for ever; empty without."""

    @property
    def digest(self) -> str | None:
        """SHA-256 of the codebooks' file; None without."""
        return hashlib.sha256(self.file).hexdigest() if self.file else None

    def fingerprint(self, plain: Fingerprint, dim: int) -> Fingerprint:
        """The fingerprint of plain features once they are coded."""
        return Fingerprint({**plain.parts, "codec": self.config.part(dim, self.digest)})

    def columns_of(self, part: str) -> list[str]:
        """The columns that hold one fine feature."""
        return columns_of(part, self.config.values, self.config.tokens)

    def codebook(self, part: str) -> Tensor:
        """The pieces (M, 256, D/M) float32 of a fine feature that is stored by product quantisation."""
        return self._book(part).pieces

    def rotation(self, part: str) -> Tensor | None:
        """Its rotation (D, D) float32, or None."""
        return self._book(part).rotation

    def to(self, device: torch.device) -> Codec:
        """The same on another device."""
        books = {part: book.to(device) for part, book in self.books.items()}
        return Codec(self.config, books, self.trained_on, self.file)

    def columns(
        self, video: Tensor, frames: Tensor, temporal: Tensor, patches: Tensor | None, mask: Tensor
    ) -> dict[str, NDArray[Any]]:
        """The packed columns of V videos, as `layout.stored_tensors` has them.

        video (V, D), frames and temporal (V, F, D), patches (V, F, P, D) or None, mask (V, F) bool with a frame in each
        video, on the codec's device. All are rounded to fp16 first, so that a set that is coded as it is encoded and
        one that is coded later are the same.
        """
        parts = []
        for begin in range(0, max(1, len(video)), _AT_ONCE):
            some = slice(begin, begin + _AT_ONCE)
            groups = grouped(
                self.config, frames[some], temporal[some], None if patches is None else patches[some], mask[some]
            )
            parts.append(self._columns(video[some].half(), groups, frames.shape[1]))
        return {name: np.concatenate([part[name].cpu().numpy() for part in parts]) for name in parts[0]}

    def decode(self, part: str, columns: Mapping[str, NDArray[Any]]) -> Tensor:
        """The tokens of a fine feature as its columns hold them: (V, N, D) float64."""
        names = [part, *([f"{part}_scale"] if self.config.values == "int8" else [])]
        arrays = {name: tensor_of(columns[name]) for name in names}
        codes, scale = arrays[part], arrays.get(f"{part}_scale")
        flat = codes.reshape(len(codes), -1, codes.shape[-1])  # (V, N, D or M)
        return self._decoded(part, flat, None if scale is None else scale.reshape(len(scale), -1))

    def _columns(self, video: Tensor, groups: Mapping[str, Group], frames: int) -> dict[str, Tensor]:
        found = {"video": video}
        reaches = torch.full((len(video), len(PARTS), 3), torch.nan, device=video.device)
        for part, (vectors, valid, counts) in groups.items():
            codes, scale = self._coded(part, vectors, valid)
            decoded = self._decoded(part, codes, scale).masked_fill(~valid.unsqueeze(-1), 0.0)
            reaches[:, PARTS.index(part)] = reach(video, decoded, valid)
            size = (len(video), frames, *([valid.shape[1] // frames] if part == "patches" else []))
            found[part] = codes.reshape(*size, codes.shape[-1])
            if scale is not None:
                found[f"{part}_scale"] = scale.reshape(size)
            if part == "temporal" and self.config.values == "pq":
                row, column = torch.triu_indices(frames, frames, device=video.device)
                found["temporal_gram"] = (decoded @ decoded.transpose(1, 2))[:, row, column].float()
            if counts is not None:
                found["patch_counts"] = counts.reshape(size).to(torch.uint16)
        return found | {"reach": reaches}

    def _coded(self, part: str, vectors: Tensor, valid: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.config.values == "fp16":
            return vectors.half(), None
        if self.config.values == "int8":
            return quantise(vectors)
        codes = self._book(part).encode(vectors.flatten(0, 1))
        return codes.reshape(*valid.shape, codes.shape[-1]).masked_fill(~valid.unsqueeze(-1), 0), None

    def _decoded(self, part: str, codes: Tensor, scale: Tensor | None) -> Tensor:
        if self.config.values == "pq":
            flat = self._book(part).decode(codes.flatten(0, 1))
            return flat.reshape(*codes.shape[:2], flat.shape[-1])
        return codes.double() if scale is None else codes.double() * scale.double().unsqueeze(-1)

    def _book(self, part: str) -> Codebook:
        if part not in self.books:
            raise MgvrError(f"the codebooks hold none for {part}: they were trained on features without")
        return self.books[part]


def grouped(
    config: CodecConfig, frames: Tensor, temporal: Tensor, patches: Tensor | None, mask: Tensor
) -> dict[str, Group]:
    """What is coded, by fine feature: rounded to fp16, patches merged where they are to be. Arguments as `columns`."""
    found = {
        name: Group(values.half().float().masked_fill(~mask.unsqueeze(-1), 0.0), mask)
        for name, values in (("frames", frames), ("temporal", temporal))
    }
    if patches is None:
        return found
    rounded = patches.half().float()
    if config.tokens:
        tokens, counts = merge(rounded, mask, config.tokens)  # (V, F, K, D), (V, F, K)
        number = counts.flatten(1)
        found["patches"] = Group(tokens.flatten(1, 2), number > 0, number)
    else:
        valid = mask.repeat_interleave(patches.shape[2], dim=1)  # (V, F * P)
        found["patches"] = Group(rounded.flatten(1, 2).masked_fill(~valid.unsqueeze(-1), 0.0), valid)
    return found


def train(config: CodecConfig, sample: Mapping[str, Tensor], trained_on: str) -> Codec:
    """A codec with codebooks for vectors like the sample's, (n, D) by fine feature; `config.values` is pq.

    Raises MgvrError where a fine feature has no vector, or D can't be cut into so many pieces.
    """
    books = {}
    for number, (part, vectors) in enumerate(sample.items()):
        if not len(vectors):
            raise MgvrError(f"there are no {part} to train codebooks on: the set holds no video")
        M = config.pieces(vectors.shape[1])
        books[part] = train_codebook(vectors, M, config.rotate, config.seed + number)
    tensors = {f"{part}.pieces": book.pieces.contiguous() for part, book in books.items()}
    tensors |= {
        f"{part}.rotation": book.rotation.contiguous() for part, book in books.items() if book.rotation is not None
    }
    about = {"config": config.model_dump(mode="json"), "trained_on": trained_on}
    data = safetensors.torch.save(tensors, {_ABOUT: json.dumps(about, sort_keys=True)})
    return Codec(config, books, trained_on, data)


def load(data: bytes, source: str) -> Codec:
    """The codec behind a codebooks' file; raises MgvrError, naming `source`, for anything else."""
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_ABOUT])
        parts = [part for part in PARTS if f"{part}.pieces" in tensors]
        books = {part: Codebook(tensors[f"{part}.pieces"], tensors.get(f"{part}.rotation")) for part in parts}
    except (SafetensorError, ValueError, KeyError) as error:
        raise MgvrError(f"{source} holds no codebooks of mgvr: {error}") from None
    return Codec(parse(CodecConfig, about["config"], source), books, about["trained_on"], data)
