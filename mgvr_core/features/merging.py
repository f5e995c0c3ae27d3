"""Merging a frame's patches into a few tokens: k-means of directions, all frames of many videos at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

_ROUNDS = 10
"""Of Lloyd's iteration: few frames change after so many."""


def merge(patches: Tensor, mask: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """The patches of each frame as K groups: unit vectors (B, F, P, D) -> tokens (B, F, K, D) and counts (B, F, K).

    A token is the plain mean of its members, float32: its similarity with a text is the mean of theirs. counts, int64,
    say how many these are; an empty place, as all of padded frames (mask (B, F) bool) are, holds zeros and count 0.

    Spherical k-means (Dhillon & Modha 2001, Concept decompositions). It starts with the patch nearest to the frame's
    mean and then, one by one, with the patch farthest from those chosen, so that a frame whose patches take at most K
    values is kept as it is. Nothing is drawn by chance. All of it but the means runs on the patches' Gram matrix.
    """
    B, F, _, D = patches.shape
    points = patches[mask].float()  # (n, P, D), n frames that there are
    gram = points @ points.transpose(1, 2)  # (n, P, P)
    members = _assigned(_farthest_first(gram, tokens))
    for _ in range(_ROUNDS):
        sums = gram @ members  # (n, P, K): <x, sum of the members>
        lengths = (members * sums).sum(dim=1, keepdim=True).clamp_min(0.0).sqrt()  # (n, 1, K)
        along = (sums / lengths.clamp_min(1e-12)).masked_fill(members.sum(dim=1, keepdim=True) == 0, -torch.inf)
        new = _assigned(along)
        if torch.equal(new, members):
            break
        members = new
    counts = members.sum(dim=1)  # (n, K)
    means = (members.transpose(1, 2) @ points) / counts.clamp_min(1.0).unsqueeze(-1)  # (n, K, D)
    merged = means.new_zeros((B, F, tokens, D))
    number = torch.zeros((B, F, tokens), dtype=torch.int64, device=patches.device)
    merged[mask], number[mask] = means, counts.long()
    return merged, number


def _farthest_first(gram: Tensor, tokens: int) -> Tensor:
    """Similarities of all patches with K that lie far from each other: Gram matrices (n, P, P) -> (n, P, K)."""
    chosen = gram.sum(dim=2).argmax(dim=1)  # (n,)
    found = gram.new_empty((*gram.shape[:2], tokens))
    nearest = torch.full_like(gram[:, :, 0], -torch.inf)  # (n, P): to the nearest one chosen
    for k in range(tokens):
        found[:, :, k] = gram.gather(2, chosen[:, None, None].expand(-1, gram.shape[1], 1)).squeeze(2)
        nearest = torch.maximum(nearest, found[:, :, k])
        chosen = nearest.argmin(dim=1)
    return found


def _assigned(similarity: Tensor) -> Tensor:
    """Which group each patch is most like, of equal ones the first: (n, P, K) -> the same, 0 or 1."""
    return one_hot(similarity.argmax(dim=2), similarity.shape[2]).to(similarity.dtype)
