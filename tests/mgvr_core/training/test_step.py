"""One step, however the batch is cut: in chunks, with patch scores in parts, with activations computed again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mgvr_core.model.eercf import EERCF
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.training.losses import LossConfig, patch_scores
from mgvr_core.training.step import MemoryConfig, Rows, backward
from mgvr_core.training.trained import set_trained

Build = Callable[..., EERCF]
Gradients = dict[str, Tensor]

PAIRS, F = 7, 3
EVERY_TERM = LossConfig(tib_patch=0.5, pearson=0.1, pearson_tib_patch=1.0)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Ids (7, 8), pixels (7, 3, 3, 16, 16) and a mask with padding."""
    ids = torch.tensor([[18, *words, 19, 0, 0, 0] for words in torch.randint(1, 18, (PAIRS, 3)).tolist()])
    mask = torch.arange(F) < torch.tensor([3, 2, 1, 3, 3, 1, 2])[:, None]
    return ids, torch.randn(PAIRS, F, 3, 16, 16), mask


def taken(
    model: EERCF,
    batch: tuple[Tensor, Tensor, Tensor],
    memory: MemoryConfig,
    valid: Tensor | None = None,
    loss: LossConfig = EVERY_TERM,
) -> tuple[float, int, Gradients, list[int]]:
    """Loss, pairs, gradients, and how many rows went through the towers at a time."""
    ids, pixels, mask = batch
    sizes = []

    def encode(rows: slice) -> Rows:
        sizes.append(len(ids[rows]))
        videos = model.encode_videos(pixels[rows], mask[rows], patches=loss.needs_patches)
        return Rows(model.encode_text(ids[rows]), videos, None if valid is None else valid[rows])

    model.zero_grad()
    losses, pairs = backward(model, encode, len(ids), model.frame_mixing, loss, memory)
    gradients = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    return losses.total.item(), pairs, gradients, sizes


def off(found: Gradients, expected: Gradients) -> float:
    """Norm of the difference, as a part of the norm of the whole gradient."""
    assert found.keys() == expected.keys()
    difference = sum((found[name] - expected[name]).square().sum() for name in expected)
    return float((difference / sum(part.square().sum() for part in expected.values())).sqrt())


@pytest.mark.parametrize("chunk", [1, 3, 6, 7, 20])
def test_the_gradient_of_chunks_is_that_of_the_whole_batch(tiny_model: Build, batch, chunk: int) -> None:
    """Negatives and Pearson statistics included, which the sum over small batches has not."""
    model = tiny_model()
    loss, pairs, gradients, whole = taken(model, batch, MemoryConfig())
    assert (pairs, whole) == (PAIRS, [PAIRS])
    loss_in_chunks, _, in_chunks, sizes = taken(model, batch, MemoryConfig(chunk=chunk))
    assert loss_in_chunks == pytest.approx(loss, abs=1e-5)
    assert off(in_chunks, gradients) < 1e-5
    if chunk < PAIRS:
        assert max(sizes) <= chunk
        assert sum(sizes) == 2 * PAIRS


def test_plain_accumulation_would_be_another_step(tiny_model: Build, batch) -> None:
    """What chunks are not: the sum over halves of the batch, each with its own negatives."""
    model = tiny_model()
    _, _, whole, _ = taken(model, batch, MemoryConfig())
    summed: Gradients = {}
    for rows in (slice(0, 4), slice(4, 7)):
        _, _, part, _ = taken(model, tuple(each[rows] for each in batch), MemoryConfig())
        for name, gradient in part.items():
            summed[name] = summed.get(name, 0) + gradient * len(batch[0][rows]) / PAIRS
    assert off(summed, whole) > 0.05


def test_what_is_frozen_gets_no_gradient_in_chunks_either(tiny_model: Build, batch) -> None:
    model = tiny_model()
    set_trained(model, "heads")
    _, _, whole, _ = taken(model, batch, MemoryConfig())
    _, _, chunks, _ = taken(model, batch, MemoryConfig(chunk=2))
    assert {name.split(".")[0] for name in whole} == {"temporal", "video_projection", "frame_mixing"}
    assert off(chunks, whole) < 1e-5


@pytest.mark.parametrize("memory", [MemoryConfig(patch_videos=2), MemoryConfig(patch_videos=3, chunk=3)])
def test_patch_scores_in_parts_change_nothing(tiny_model: Build, batch, memory: MemoryConfig) -> None:
    model = tiny_model()
    _, _, whole, _ = taken(model, batch, MemoryConfig())
    _, _, parts, _ = taken(model, batch, memory)
    assert off(parts, whole) < 1e-5


def test_patch_scores_in_parts_keep_no_array_of_all_pairs() -> None:
    """For the backward pass: nothing of (T, V, F * P) numbers is saved."""
    T, V, P, D = 6, 6, 5, 8
    text, patches = torch.randn(T, D, requires_grad=True), torch.randn(V, F, P, D, requires_grad=True)
    mask = torch.ones(V, F, dtype=torch.bool)

    def largest(videos_at_once: int | None) -> int:
        saved = [0]

        def pack(tensor: Tensor) -> Tensor:
            saved.append(tensor.numel() if tensor.numel() not in {text.numel(), patches.numel()} else 0)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            scores = patch_scores(text, patches, mask, videos_at_once)
        assert scores.shape == (T, V)
        return max(saved)

    assert largest(None) >= T * V * F * P
    assert largest(2) < T * V * F * P


def test_activations_computed_again_give_the_same_gradient(tiny_model: Build, batch) -> None:
    model = tiny_model()
    _, _, whole, _ = taken(model, batch, MemoryConfig())
    model.recompute_activations()
    assert model.clip.visual.transformer.grad_checkpointing
    assert model.clip.transformer.grad_checkpointing
    _, _, again, _ = taken(model, batch, MemoryConfig())
    assert off(again, whole) < 1e-6


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_pair_without_a_video_is_in_no_loss(tiny_model: Build, batch, chunk: int | None) -> None:
    """As if the batch had not had it."""
    model = tiny_model()
    valid = torch.tensor([True, True, False, True, True, False, True])
    _, _, expected, _ = taken(model, tuple(each[valid] for each in batch), MemoryConfig())
    loss, pairs, found, _ = taken(model, batch, MemoryConfig(chunk=chunk), valid)
    assert pairs == 5
    assert off(found, expected) < 1e-5
    assert loss > 0


def test_a_batch_without_two_good_pairs_is_no_step(tiny_model: Build, batch) -> None:
    valid = torch.arange(PAIRS) == 3
    for chunk in (None, 2):
        loss, pairs, gradients, _ = taken(tiny_model(), batch, MemoryConfig(chunk=chunk), valid)
        assert (loss, pairs, gradients) == (0.0, 1, {})


def test_a_loss_without_patches_encodes_none(tiny_model: Build, batch) -> None:
    loss = LossConfig(patch_weak=0.0)
    _, _, whole, _ = taken(tiny_model(), batch, MemoryConfig(), loss=loss)
    _, _, chunks, _ = taken(tiny_model(), batch, MemoryConfig(chunk=3), loss=loss)
    assert whole.keys() == chunks.keys()
    features = tiny_model().encode_videos(*batch[1:], patches=False)
    assert isinstance(features, VideoFeatures)
    assert features.patches is None
