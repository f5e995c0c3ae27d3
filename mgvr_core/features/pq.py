"""Product quantisation: a vector as M bytes, each of which names one of 256 pieces of D/M dimensions.

Jégou, Douze & Schmid 2011, Product quantization for nearest neighbor search; with a rotation, Ge, He, Ke & Sun 2013,
Optimized product quantization: first so that the pieces share the variance (section 4), then by turns of pieces and
rotation (section 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PIECES = 256
_ROUNDS = 20
"""Of k-means."""
_TURNS = 12
"""Of rotation and one round of k-means before it."""
_CELLS = 1 << 21
"""Distances in memory at once: 8 MiB, which a cache holds."""


@dataclass(frozen=True)
class Codebook:
    """The pieces of one fine feature."""

    pieces: Tensor
    """(M, 256, D/M) float32."""
    rotation: Tensor | None
    """R (D, D) float32, orthonormal but for rounding: the pieces are those of y R. None: of y itself."""

    @property
    def dim(self) -> int:
        """D."""
        return self.pieces.shape[0] * self.pieces.shape[2]

    def to(self, device: torch.device) -> Codebook:
        """The same on another device."""
        return Codebook(self.pieces.to(device), None if self.rotation is None else self.rotation.to(device))

    def encode(self, vectors: Tensor) -> Tensor:
        """Vectors (n, D) float32 -> codes (n, M) uint8 of the nearest pieces."""
        turned = vectors if self.rotation is None else vectors @ self.rotation
        return _nearest(_cut(turned, len(self.pieces)), self.pieces).T.to(torch.uint8).contiguous()

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (n, M) uint8 -> vectors (n, D) float64: exact pieces, turned back with a rounding far below theirs."""
        joined = _joined(codes.long().T, self.pieces).double()
        return joined if self.rotation is None else joined @ self.rotation.double().T


def train(vectors: Tensor, pieces: int, rotate: bool, seed: int) -> Codebook:
    """The codebook for vectors (n, D) like these, n at least 1; `pieces` M divides D. One machine, one codebook."""
    generator = torch.Generator().manual_seed(seed)
    vectors = vectors.float()
    rotation = _balanced(vectors, pieces) if rotate else None
    turned = _cut(vectors if rotation is None else vectors @ rotation, pieces)  # (M, n, D/M)
    rows = torch.randint(len(vectors), (PIECES,), generator=generator)
    if len(vectors) >= PIECES:
        rows = torch.randperm(len(vectors), generator=generator)[:PIECES]
    books = turned[:, rows].clone()  # (M, 256, D/M)
    for _ in range(_TURNS if rotation is not None else 0):
        codes = _nearest(turned, books)
        books = _means(turned, codes, books)
        # Of all rotations the one that brings the vectors nearest to their decoded selves (Procrustes).
        left, _, right = np.linalg.svd(
            (vectors.T @ _joined(codes, books)).double().numpy()
        )  # LAPACK of PyTorch's own build is slower
        rotation = torch.from_numpy(left @ right).float()
        turned = _cut(vectors @ rotation, pieces)
    for _ in range(_ROUNDS):
        books = _means(turned, _nearest(turned, books), books)
    return Codebook(books.contiguous(), rotation)


def _balanced(vectors: Tensor, pieces: int) -> Tensor:
    """A rotation after which the variance is spread evenly over the pieces: (n, D) -> (D, D).

    Principal directions, by descending variance, each to the piece whose product of variances is the least so far.
    """
    D = vectors.shape[1]
    centred = vectors - vectors.mean(dim=0)
    found = np.linalg.eigh((centred.T @ centred / len(vectors)).double().numpy())  # ascending
    variance, directions = (torch.from_numpy(each) for each in found)
    floor = variance.amax().clamp_min(1e-30) * 1e-12
    levels = (variance.clamp_min(floor) / floor).log()  # not negative, or a full piece would look empty
    load, held = torch.zeros(pieces, dtype=torch.float64), [list[int]() for _ in range(pieces)]
    for d in reversed(range(D)):
        room = torch.tensor([0.0 if len(mine) < D // pieces else torch.inf for mine in held], dtype=torch.float64)
        chosen = int((load + room).argmin())
        held[chosen].append(d)
        load[chosen] += levels[d]
    order = torch.tensor([d for mine in held for d in mine])
    rotation: Tensor = directions[:, order].float()
    return rotation


def _cut(vectors: Tensor, pieces: int) -> Tensor:
    """(n, D) -> (M, n, D/M)."""
    return vectors.reshape(len(vectors), pieces, -1).transpose(0, 1).contiguous()


def _joined(codes: Tensor, books: Tensor) -> Tensor:
    """The pieces that codes (M, n) int64 name, side by side: (n, D)."""
    named = books.gather(1, codes.unsqueeze(-1).expand(-1, -1, books.shape[2]))  # (M, n, D/M)
    return named.transpose(0, 1).reshape(codes.shape[1], -1)


def _nearest(cut: Tensor, books: Tensor) -> Tensor:
    """The nearest piece of each, of equal ones the first: (M, n, D/M) and (M, 256, D/M) -> (M, n) int64."""
    squares = books.square().sum(dim=2).unsqueeze(1) / 2  # (M, 1, 256)
    turned = books.transpose(1, 2).contiguous()  # (M, D/M, 256)
    found = [torch.baddbmm(squares, part, turned, alpha=-1).min(dim=2).indices for part in _slices(cut)]
    return torch.cat(found, dim=1) if found else cut.new_empty((len(cut), 0), dtype=torch.int64)


def _slices(cut: Tensor) -> Iterator[Tensor]:
    step = max(1, _CELLS // (len(cut) * PIECES))
    return (cut[:, begin : begin + step] for begin in range(0, cut.shape[1], step))


def _means(cut: Tensor, codes: Tensor, books: Tensor) -> Tensor:
    """The mean of what each piece is nearest to; a piece that is nearest to nothing moves to what lies farthest."""
    where = codes.unsqueeze(-1).expand_as(cut)
    sums = torch.zeros_like(books).scatter_add_(1, where, cut)
    counts = torch.zeros(books.shape[:2], device=cut.device).scatter_add_(1, codes, torch.ones_like(codes).float())
    means = sums / counts.clamp_min(1.0).unsqueeze(-1)
    if (counts == 0).any():
        away = (cut - books.gather(1, where)).square().sum(dim=2)  # (M, n)
        for m, empty in enumerate(counts == 0):
            idle = empty.nonzero().squeeze(1)[: cut.shape[1]]
            means[m, idle] = cut[m, away[m].topk(len(idle)).indices]
    return means
