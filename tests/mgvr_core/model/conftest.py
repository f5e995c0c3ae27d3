"""Released weights and open_clip names in small."""

from __future__ import annotations

import open_clip.factory
import pytest
import torch
from open_clip.model import CLIP
from small_models import CONTEXT, DIM, FRAMES, TEMPORAL_LAYERS, architecture, captions, off_identity, seed, tiny_model
from torch import Tensor

__all__ = ["captions", "seed", "tiny_model"]


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
