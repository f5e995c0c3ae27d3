"""Merged patches: what a search by text may rely on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.features.merging import merge
from mgvr_core.scoring.patch_weak import patch_weak


def unit(seed: int, *sizes: int) -> Tensor:
    return normalize(torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)), dim=-1)


def counted_weak(text: Tensor, tokens: Tensor, counts: Tensor) -> Tensor:
    """patch_weak where every token stands for so many patches, in the plainest way: it is there so many times."""
    scores = torch.empty(len(text), len(tokens))
    for v in range(len(tokens)):
        whole = tokens[v].flatten(0, 1).repeat_interleave(counts[v].flatten(), dim=0)  # (sum of counts, D)
        everywhere = torch.ones(1, 1, dtype=torch.bool)
        scores[:, v] = patch_weak(text, whole[None, None], everywhere)[:, 0]
    return scores


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), values=st.integers(1, 4), tokens=st.integers(4, 6))
def test_a_frame_of_few_different_patches_loses_nothing(seed: int, values: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    different = unit(seed, 2, 3, values, 16)
    which = torch.randint(values, (2, 3, 9), generator=generator)
    patches = different.gather(2, which.unsqueeze(-1).expand(-1, -1, -1, 16))  # (V, F, P, D)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    merged, counts = merge(patches, mask, tokens)
    text = unit(seed + 1, 5, 16)
    torch.testing.assert_close(counted_weak(text, merged, counts), patch_weak(text, patches, mask), atol=1e-5, rtol=0)


def test_a_token_is_the_plain_mean_of_the_patches_that_it_counts() -> None:
    patches, mask = unit(0, 3, 2, 10, 8), torch.ones(3, 2, dtype=torch.bool)
    merged, counts = merge(patches, mask, 3)
    assert (counts.sum(dim=2) == 10).all()
    # Then the patches' sum is the counted tokens' sum, and no token is longer than a patch.
    torch.testing.assert_close((merged * counts.unsqueeze(-1)).sum(dim=2), patches.sum(dim=2))
    assert (merged.norm(dim=-1)[counts > 1] < 1).all()
    torch.testing.assert_close(merged.norm(dim=-1)[counts == 1], torch.ones(int((counts == 1).sum())))


def test_padded_frames_hold_no_token_and_change_none() -> None:
    patches = unit(0, 2, 3, 7, 8)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    merged, counts = merge(patches, mask, 2)
    assert (counts[~mask] == 0).all()
    assert (merged[~mask] == 0).all()
    patches[~mask] = float("nan")
    again, same = merge(patches, mask, 2)
    assert torch.equal(again, merged)
    assert torch.equal(same, counts)


def test_an_empty_place_holds_zeros() -> None:
    patches = unit(0, 1, 1, 1, 8).expand(1, 1, 6, 8)
    merged, counts = merge(patches, torch.ones(1, 1, dtype=torch.bool), 3)
    assert counts.sum() == 6
    assert (merged[counts == 0] == 0).all()


@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_patches_of_distant_directions_are_told_apart(spread: float) -> None:
    """However unequal the groups are: a small thing in a corner is what a text asks for."""
    directions = torch.eye(16)[:3]
    owner = torch.tensor([0] * 40 + [1] * 7 + [2] * 2)
    noise = spread * unit(1, 49, 16)
    patches = normalize(directions[owner] + noise, dim=-1)[None, None]
    merged, counts = merge(patches, torch.ones(1, 1, dtype=torch.bool), 3)
    assert sorted(counts.flatten().tolist()) == [2, 7, 40]
    assert (merged[0, 0] @ directions.T).amax(dim=0).min() > 0.9


def test_the_whole_frame_is_one_token_at_the_least() -> None:
    patches = unit(3, 2, 2, 5, 8)
    merged, counts = merge(patches, torch.ones(2, 2, dtype=torch.bool), 1)
    torch.testing.assert_close(merged[:, :, 0], patches.mean(dim=2))
    assert (counts == 5).all()
