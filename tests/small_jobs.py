"""A model that a training job of the tests begins with: everything that a real one has, in a few thousand weights."""

from __future__ import annotations

from typing import Any

SIZE, FRAMES = 32, 4
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": SIZE, "patch_size": 16, "width": 64, "head_width": 32, "layers": 1},
    "text_cfg": {"context_length": 24, "width": 64, "heads": 2, "layers": 1},
}
FRESH: dict[str, Any] = {
    "architecture": ARCHITECTURE,
    "vocabulary": "captions",
    "temporal_layers": 1,
    "frames": FRAMES,
    "text_length": 24,
}
"""Its settings under `model`."""
SAMPLING = {"strategy": "uniform", "frames": FRAMES}
