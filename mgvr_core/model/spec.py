"""What a model is, without its weights: enough to build it again and to tell two models apart."""

from __future__ import annotations

from typing import Any, Literal

import open_clip
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from pydantic import Field

from mgvr_core.config import Section, suggest
from mgvr_core.errors import MgvrError


class TokenizerSpec(Section):
    """How captions become ids."""

    kind: Literal["open_clip", "words"] = "open_clip"
    name: str | None = Field(None, description="open_clip: the model name whose tokenizer is used; none: CLIP's BPE")
    vocabulary: tuple[str, ...] = Field((), description="words: the closed vocabulary, in the order of the ids")


class ModelSpec(Section):
    """The model's structure: open_clip's own architecture description and the sizes of what EERCF adds."""

    architecture: dict[str, Any] = Field(description="open_clip model configuration: embed_dim, vision_cfg, text_cfg …")
    name: str | None = Field(None, description="the open_clip name the architecture came from")
    frames: int = Field(12, gt=0, description="frames a video that the model was trained with: the size of U")
    temporal_layers: int = Field(4, ge=0)
    temporal_positions: int = Field(77, gt=0, description="the most frames that the temporal encoder can take")
    text_length: int = Field(32, gt=2, description="the most text tokens, the two end markers included")
    image_mean: tuple[float, float, float] = OPENAI_DATASET_MEAN
    image_std: tuple[float, float, float] = OPENAI_DATASET_STD
    tokenizer: TokenizerSpec = TokenizerSpec()

    @property
    def dim(self) -> int:
        """D, the dimensions of every feature."""
        return int(self.architecture["embed_dim"])

    @property
    def activation(self) -> str:
        """The towers' activation: a part of the model's identity, because weights run with the wrong one in silence."""
        return "quickgelu" if self.architecture.get("quick_gelu", False) else "gelu"

    @property
    def image_size(self) -> int:
        """Side of the square input image in pixels."""
        size = self.architecture["vision_cfg"].get("image_size", 224)
        return int(size if isinstance(size, int) else size[0])


def named_architecture(name: str) -> dict[str, Any]:
    """open_clip's configuration of a model name; raises MgvrError with the nearest name where there is none."""
    config = open_clip.get_model_config(name) if ":" not in name else None
    if config is None:
        raise MgvrError(f"open_clip knows no model named {name!r}{suggest(name, open_clip.list_models())}")
    if "multimodal_cfg" in config:
        raise MgvrError(f"{name} is a CoCa model: its text tower needs a decoder that retrieval has no use for")
    # The weights come later and from where the user says: nothing may be fetched while the towers are built.
    config["vision_cfg"]["timm_model_pretrained"] = False
    config["text_cfg"]["hf_model_pretrained"] = False
    return dict(config)
