"""Small models: everything that a real one has, in a few thousand weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import open_clip.factory
import pytest
import torch
from open_clip.model import CLIP
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
def _seed() -> Iterator[None]:
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
def released_weights() -> dict[str, Tensor]:
    """The state_dict of a small model as the paper's authors name it; nothing in it has its initial value."""
    towers = CLIP(**architecture()).state_dict()
    weights = {f"clip.{name}": tensor + 0.05 * torch.randn_like(tensor) for name, tensor in towers.items()}
    for block in range(TEMPORAL_LAYERS):
        for name, shape in {
            "attn.in_proj_weight": (3 * DIM, DIM),
            "attn.in_proj_bias": (3 * DIM,),
            "attn.out_proj.weight": (DIM, DIM),
            "attn.out_proj.bias": (DIM,),
            "ln_1.weight": (DIM,),
            "ln_1.bias": (DIM,),
            "mlp.c_fc.weight": (4 * DIM, DIM),
            "mlp.c_fc.bias": (4 * DIM,),
            "mlp.c_proj.weight": (DIM, 4 * DIM),
            "mlp.c_proj.bias": (DIM,),
            "ln_2.weight": (DIM,),
            "ln_2.bias": (DIM,),
        }.items():
            weights[f"transformerClip.resblocks.{block}.{name}"] = 0.2 * torch.randn(shape)
    weights["frame_position_embeddings.weight"] = 0.3 * torch.randn(CONTEXT, DIM)
    weights["global_mat_weight"] = off_identity(DIM)
    weights["frame_logit_weight"] = off_identity(FRAMES)
    return weights


@pytest.fixture
def small_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small towers under the names ViT-B-32 (GELU) and ViT-B-32-quickgelu: what is tested is the name's meaning."""
    small = {"ViT-B-32": architecture(quick_gelu=False), "ViT-B-32-quickgelu": architecture()}
    for name, config in small.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)


@pytest.fixture
def captions() -> Tensor:
    """Three captions of different lengths as ids: words, the end (the highest id), zero padding."""
    end = VOCABULARY - 1
    ids = torch.zeros(3, CONTEXT, dtype=torch.int64)
    for row, length in enumerate((1, 3, CONTEXT - 2)):
        words = torch.randint(1, end - 1, (length,))
        ids[row, : length + 2] = torch.tensor([end - 1, *words.tolist(), end])
    return ids
