"""AOSM, attention over a similarity matrix: what X-CLIP and UCoFiA make of the similarities with a set of tokens.

    AOSM(x) = sum_n a_n x_n,  a = softmax_n(x / 0.01) M

over the similarities x of N tokens, with a learned N x N matrix M that starts as the identity (Ma et al., ACM MM 2022;
EERCF's `frame_weak` is AOSM over frames). UCoFiA has a second softmax of the same temperature about it:
a = softmax_n((softmax_n(x / 0.01) M) / 0.01) (Wang et al., ICCV 2023). Padded tokens take part in nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from mgvr_core.scoring.frame_weak import frame_weak_of
from mgvr_core.scoring.weights import WEAK_TEMPERATURE, masked_softmax


def aosm(similarity: Tensor, mask: Tensor, mixing: Tensor) -> Tensor:
    """Similarities (..., N), mask broadcastable to them, M (m, m) -> (...)."""
    return frame_weak_of(similarity, mask, fitted(mixing, similarity.shape[-1]))


def sharpened_aosm(similarity: Tensor, mask: Tensor, mixing: Tensor | None) -> Tensor:
    """UCoFiA's, with the second softmax: similarities (..., N), mask, M (m, m) or None for the identity -> (...)."""
    attention = masked_softmax(similarity, mask, WEAK_TEMPERATURE)
    if mixing is not None:
        attention = attention @ fitted(mixing, similarity.shape[-1])
    attention = masked_softmax(attention, mask, WEAK_TEMPERATURE)
    return (attention * similarity).sum(dim=-1)


def fitted(mixing: Tensor, tokens: int) -> Tensor:
    """M (m, m) for another number N of tokens -> (N, N): its corner, or with the identity beyond it.

    The texts of a call are as long as their longest, not as long as the scorer was made for.
    """
    beyond = tokens - len(mixing)
    if beyond <= 0:
        return mixing[:tokens, :tokens]
    identity = torch.arange(tokens, device=mixing.device) >= len(mixing)
    return pad(mixing, (0, beyond, 0, beyond)) + torch.diag(identity.to(mixing))
