"""Score `tib_patch`: patches weighted by a text's attention, as one vector."""

from __future__ import annotations

import torch
from torch import Tensor

from mgvr_core.products import product
from mgvr_core.scoring.patch_weak import patch_attention
from mgvr_core.scoring.tib import TINY_NORM, gated_score, gated_vector, gram
from mgvr_core.scoring.weights import WEAK_TEMPERATURE, masked_softmax, patch_mask, patch_similarity


def tib_patch(text: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
    """<t^, normalise(sum_jk b_jk p^_jk)> with patch_weak's b, for every pair (docs/method.md, section 2, evaluation).

    text (T, D), patches (V, F, P, D), mask (V, F) bool -> (T, V).
    """
    V, F, P, D = patches.shape
    valid = patch_mask(mask, P)  # (V, F*P)
    similarity = patch_similarity(text, patches)  # (T, V, F*P)
    return gated_score(patch_attention(similarity, valid), similarity, gram(patches.reshape(V, F * P, D)))


def tib_patch_of(similarity: Tensor, attention: Tensor, vectors: Tensor) -> Tensor:
    """The score from a text's similarities and patch_weak's weights, (T, V, N) each, and the patches (V, N, D).

    The gated vector is formed for its length: a Gram matrix of hundreds of patches is larger than what it is made of.
    """
    gated = product(attention.transpose(0, 1), vectors.transpose(1, 2))  # (V, T, N), (V, D, N) -> (V, T, D)
    norm = torch.linalg.vector_norm(gated, dim=-1).transpose(0, 1)  # (T, V)
    score: Tensor = torch.linalg.vecdot(attention, similarity) / norm.clamp_min(TINY_NORM)
    return score


def tib_patch_vector(own_text: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
    """The gated vector of every video from its own caption (docs/method.md, section 2, training).

    own_text (V, D), patches (V, F, P, D), mask (V, F) -> (V, D). The gate carries no gradient.
    """
    V, F, P, D = patches.shape
    flat = patches.reshape(V, F * P, D)
    with torch.no_grad():
        similarity = torch.einsum("vd,vnd->vn", own_text, flat)
        attention = masked_softmax(similarity, patch_mask(mask, P), WEAK_TEMPERATURE)
    return gated_vector(attention, flat)


def multiply_adds(frames: int, patches: int, dim: int) -> int:
    """Multiply-adds a pair beyond the patch similarities, which `patch_weak` has computed already."""
    return frames * patches * dim + dim
