"""One granularity of stored videos (frames, temporal frames or patches), in whichever code it is stored.

Stage 2 asks two things of it: the similarities of many texts with the tokens of many videos, as one batched product,
and the vectors themselves, where a score needs them. Sizes: V videos, N tokens a video, D dimensions; a call names B
videos and n texts for each.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgvr_core.products import product

_LARGE = 1 << 16
"""Numbers of a video from which a copy of its own is worth a call."""
_LARGEST_INT8_DIM = 1040
"""127 * 127 * D stays below 2^24 up to here: sums of int8 products are exact in fp32 whatever their order."""


@dataclass(frozen=True)
class Texts:
    """Texts that search, on the device that searches."""

    text: Tensor
    """t^ (T, D) float32, of unit length."""
    projected: Tensor
    """t^ W (T, D) float32: what meets the coarse vectors."""

    @cached_property
    def int8(self) -> tuple[Tensor, Tensor]:
        """The texts as int8 (T, D) and their scales (T,)."""
        return quantise(self.text)

    def turned(self, rotation: Tensor) -> Tensor:
        """t^ R (T, D): computed once for a rotation R (D, D)."""
        if id(rotation) not in self._turned:
            self._turned[id(rotation)] = product(self.text.unsqueeze(0), rotation.T.unsqueeze(0))[0]
        return self._turned[id(rotation)]

    @cached_property
    def _turned(self) -> dict[int, Tensor]:
        return {}


@dataclass(frozen=True)
class Asking:
    """The texts that a batch of videos meets: gathered once, for all granularities."""

    texts: Texts
    rows: Tensor
    """(B, n) rows of the texts."""

    @cached_property
    def text(self) -> Tensor:
        """t^ (B, n, D) float32."""
        return _gather(self.texts.text, self.rows)

    @cached_property
    def projected(self) -> Tensor:
        """t^ W (B, n, D) float32."""
        return _gather(self.texts.projected, self.rows)

    def turned(self, rotation: Tensor) -> Tensor:
        """t^ R (B, n, D)."""
        return _gather(self.texts.turned(rotation), self.rows)

    @cached_property
    def int8(self) -> tuple[Tensor, Tensor]:
        """Codes (B, n, D) int8 and scales (B, n)."""
        codes, scale = self.texts.int8
        return _gather(codes, self.rows), scale[self.rows]


class Tokens(Protocol):
    """The tokens of V videos."""

    @property
    def number(self) -> int:
        """N, tokens a video."""

    @property
    def bytes(self) -> int:
        """Of a video that a product has in hand at once, decoded to fp32 where it is."""

    def vectors(self, videos: Tensor) -> Tensor:
        """The tokens of some videos as they are decoded: (B,) rows -> (B, N, D) float32."""

    def similarity(self, asking: Asking, videos: Tensor) -> Tensor:
        """<t, y> of every token of video b with the n texts that it meets: videos (B,) -> (B, n, N) float32."""

    def to(self, device: torch.device) -> Tokens:
        """The same on another device."""


@dataclass(frozen=True)
class DenseTokens:
    """Vectors as they are: fp16 or fp32."""

    values: Tensor
    """(V, N, D)."""

    @property
    def number(self) -> int:
        """N."""
        return self.values.shape[1]

    @property
    def bytes(self) -> int:
        """Of a video in fp32."""
        return 4 * self.values.shape[1] * self.values.shape[2]

    def vectors(self, videos: Tensor) -> Tensor:
        """(B,) -> (B, N, D) float32."""
        return _widened(self.values, videos)

    def similarity(self, asking: Asking, videos: Tensor) -> Tensor:
        """(B,) -> (B, n, N): fp16 is widened to fp32, which is exact, and summed in fp32."""
        return product(asking.text, self.vectors(videos))

    def to(self, device: torch.device) -> DenseTokens:
        """The same on another device."""
        return DenseTokens(self.values.to(device))


@dataclass(frozen=True)
class Int8Tokens:
    """Vectors of int8 numbers with one scale each. Texts are rounded to int8 in the same way.

    The sums are exact integers, so that a pair has one score, to the bit, whatever else is computed beside it.
    """

    codes: Tensor
    """(V, N, D) int8."""
    scale: Tensor
    """(V, N) float32; 0 for padding."""

    @property
    def number(self) -> int:
        """N."""
        return self.codes.shape[1]

    @property
    def bytes(self) -> int:
        """Of a video in fp32."""
        return 4 * self.codes.shape[1] * self.codes.shape[2]

    def vectors(self, videos: Tensor) -> Tensor:
        """(B,) -> (B, N, D) float32."""
        return _widened(self.codes, videos).mul_(self.scale[videos].unsqueeze(-1))

    def similarity(self, asking: Asking, videos: Tensor) -> Tensor:
        """(B,) -> (B, n, N)."""
        codes, scale = asking.int8
        if codes.device.type == "cpu" and self.codes[0].numel() >= _LARGE:
            B, n, _ = codes.shape
            sums = torch.empty((B, self.number, n), dtype=torch.int32)
            for b, video in enumerate(videos.tolist()):
                torch._int_mm(self.codes[video], codes[b].T, out=sums[b])  # (N, D) @ (D, n)
            similarity = sums.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        else:  # few are not worth a call each; and CUDA's integer product wants sizes that are multiples of 8
            similarity = product(codes.float(), _widened(self.codes, videos))
        return similarity.mul_(self.scale[videos].unsqueeze(1)).mul_(scale.unsqueeze(-1))

    def to(self, device: torch.device) -> Int8Tokens:
        """The same on another device."""
        return Int8Tokens(self.codes.to(device), self.scale.to(device))


@dataclass(frozen=True)
class PqTokens:
    """Vectors by product quantisation: each is M numbers of 8 bits, each of which names a piece of D/M dimensions."""

    codes: Tensor
    """(V, N, M) uint8."""
    codebook: Tensor
    """(M, 256, D/M) float32."""
    rotation: Tensor | None
    """R (D, D) float32, orthonormal: the codebook's pieces are those of y R. None: of y itself."""

    @property
    def number(self) -> int:
        """N."""
        return self.codes.shape[1]

    @property
    def bytes(self) -> int:
        """Of a video in fp32."""
        return 4 * self.codes.shape[1] * self.codebook.shape[0] * self.codebook.shape[2]

    def vectors(self, videos: Tensor) -> Tensor:
        """(B,) -> (B, N, D) float32."""
        decoded = self._decoded(videos)
        return decoded if self.rotation is None else decoded @ self.rotation.T

    def similarity(self, asking: Asking, videos: Tensor) -> Tensor:
        """(B,) -> (B, n, N): the pieces are looked up once a video, for all of its texts (decision 007).

        The texts are turned as the tokens were, so that the tokens need not be turned back.
        """
        text = asking.text if self.rotation is None else asking.turned(self.rotation)  # (B, n, D)
        return product(text, self._decoded(videos))

    def to(self, device: torch.device) -> PqTokens:
        """The same on another device."""
        rotation = None if self.rotation is None else self.rotation.to(device)
        return PqTokens(self.codes.to(device), self.codebook.to(device), rotation)

    def _decoded(self, videos: Tensor) -> Tensor:
        """(B,) -> (B, N, D), before the rotation is taken back."""
        codes = self.codes[videos]
        B, N, M = codes.shape
        pieces = self.codebook.reshape(M * 256, -1)
        places = (codes.long() + 256 * torch.arange(M, device=codes.device)).reshape(-1)  # (B * N * M,)
        if codes.device.type != "cpu":
            return pieces[places].reshape(B, N, -1)
        decoded = torch.empty(B, N, M * pieces.shape[1])
        # NumPy, for it writes where it is told to; no place is out of range, so that nothing is clipped.
        np.take(pieces.numpy(), places.numpy(), axis=0, out=decoded.view(-1, pieces.shape[1]).numpy(), mode="clip")
        return decoded


def quantise(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8: (..., D) float -> codes (..., D) int8 and scales (...) float32 with codes * scale ~ vectors.

    A vector of zeros has scale 0. Raises ValueError for more dimensions than an exact sum has room for.
    """
    if vectors.shape[-1] > _LARGEST_INT8_DIM:
        raise ValueError(
            f"int8 sums of {vectors.shape[-1]} dimensions are not exact in fp32: at most {_LARGEST_INT8_DIM}"
        )
    vectors = vectors.float()
    scale = vectors.abs().amax(dim=-1) / 127
    codes = (vectors / scale.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)).round()
    return codes.clamp(-127, 127).to(torch.int8), scale


def tensor_of(values: NDArray[Any]) -> Tensor:
    """A tensor in the memory of an array that nothing writes to, such as a table's or one of Ray's object store."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch warns of memory that must not be written to
        return torch.from_numpy(values)


def _gather(rows: Tensor, where: Tensor) -> Tensor:
    """Rows (T, D) at (B, n) -> (B, n, D)."""
    return rows.index_select(0, where.reshape(-1)).reshape(*where.shape, -1)


def _widened(values: Tensor, videos: Tensor) -> Tensor:
    """Some videos of (V, N, D) in float32: (B,) -> (B, N, D).

    Large ones are widened one by one, so that nothing is copied while narrow.
    """
    if values.device.type != "cpu" or values[0].numel() < _LARGE:
        return values.index_select(0, videos).float()
    wide = torch.empty((len(videos), *values.shape[1:]))
    for b, video in enumerate(videos.tolist()):
        wide[b].copy_(values[video])
    return wide
