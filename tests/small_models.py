"""Small models for the tests of `model` and `training`: everything that a real one has, in a few thousand weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from mgvr_core.model.eercf import EERCF
from mgvr_core.model.spec import ModelSpec

DIM, FRAMES, TEMPORAL_LAYERS, CONTEXT, VOCABULARY = 64, 3, 2, 8, 20


def architecture(quick_gelu: bool = True, **text: Any) -> dict[str, Any]:
    """An open_clip configuration: 16-pixel images of 4 patches, texts of 8 tokens."""
    return {
        "embed_dim": DIM,
        "quick_gelu": quick_gelu,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": VOCABULARY,
            "width": 64,
            "heads": 1,
            "layers": TEMPORAL_LAYERS,
            **text,
        },
    }


def off_identity(size: int) -> Tensor:
    return torch.eye(size) + 0.3 * torch.randn(size, size)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these models are so small that threads only wait for each other
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_model() -> Callable[..., EERCF]:
    """A model in evaluation mode whose W, U and frame positions differ from their initial values."""

    def build(**spec: Any) -> EERCF:
        settings = {
            "frames": FRAMES,
            "temporal_layers": TEMPORAL_LAYERS,
            "temporal_positions": 8,
            "text_length": CONTEXT,
        }
        model = EERCF(ModelSpec(**{"architecture": architecture(), **settings, **spec}))
        with torch.no_grad():
            model.video_projection.copy_(off_identity(DIM))
            model.frame_mixing.copy_(off_identity(model.spec.frames))
            model.temporal.positions.normal_(std=0.3)
        return model.eval()

    return build


@pytest.fixture
def captions() -> Tensor:
    """Three captions of different lengths as ids: words, the end (the highest id), zero padding."""
    end = VOCABULARY - 1
    ids = torch.zeros(3, CONTEXT, dtype=torch.int64)
    for row, length in enumerate((1, 3, CONTEXT - 2)):
        words = torch.randint(1, end - 1, (length,))
        ids[row, : length + 2] = torch.tensor([end - 1, *words.tolist(), end])
    return ids
