"""Score `tib_patch`: patches weighted by a text's attention, as one vector."""

from __future__ import annotations

import torch
from torch import Tensor

from mgvr_core.scoring.tib import gated_score, gated_vector, gram
from mgvr_core.scoring.weights import WEAK_TEMPERATURE, masked_softmax, patch_mask, patch_similarity


def tib_patch(text: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
    """<t^, normalise(sum_jk b_jk p^_jk)> with patch_weak's b, for every pair (docs/method.md, section 2, evaluation).

    text (T, D), patches (V, F, P, D), mask (V, F) bool -> (T, V).
    """
    V, F, P, D = patches.shape
    valid = patch_mask(mask, P)  # (V, F*P)
    similarity = patch_similarity(text, patches)  # (T, V, F*P)
    attention = masked_softmax(similarity, valid, WEAK_TEMPERATURE)
    return gated_score(attention, similarity, gram(patches.reshape(V, F * P, D)))


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
