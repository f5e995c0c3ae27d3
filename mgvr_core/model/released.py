"""Released checkpoints of the EERCF and CLIP4Clip family: their key names, and the model that they describe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.model.spec import ModelSpec
from mgvr_core.model.temporal import HEAD_WIDTH

_RENAMED = {
    "global_mat_weight": "video_projection",
    "frame_logit_weight": "frame_mixing",
    "frame_position_embeddings.weight": "temporal.positions",
}
_SYMBOLS = {"global_mat_weight": "W", "frame_logit_weight": "U"}
_PREFIXES = {"transformerClip.resblocks.": "temporal.blocks.", "clip.": "clip."}


def is_released(weights: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of the family: CLIP under `clip.` and the temporal transformer beside it."""
    return "clip.logit_scale" in weights and any(name.startswith("transformerClip.") for name in weights)


def convert(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Released names -> this model's names, in fp32.

    Raises MgvrError for names that belong to another model of the family (X-CLIP's word weights, say): dropping them
    would change the scores in silence.
    """
    mine: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in weights.items():
        new = _RENAMED.get(name) or next((to + name.removeprefix(old) for old, to in _prefixes(name)), None)
        if new is None:
            unknown.append(name)
        else:
            mine[new] = tensor.float()
    if unknown:
        raise MgvrError(f"{source} holds weights that EERCF has no place for: {', '.join(sorted(unknown)[:8])}")
    return mine


def complete(weights: dict[str, Tensor], fresh: Mapping[str, Tensor], source: str) -> list[str]:
    """Take from a fresh model what CLIP4Clip has not, and say so: a list of notes for the reader.

    CLIP4Clip has no W and no U: the identity, from which both start, is what its own score amounts to.
    Raises MgvrError where another weight of the fresh model is missing.
    """
    absent = fresh.keys() - weights.keys()
    lost = sorted(_released_name(name) for name in absent - {"video_projection", "frame_mixing"})
    if lost:
        raise _lacks(source, lost)
    weights.update({name: fresh[name] for name in absent})
    names = sorted(_released_name(name) for name in absent)
    return [f"{source} has no {name} ({_SYMBOLS[name]}): the identity is used, as in CLIP4Clip" for name in names]


def describe(weights: Mapping[str, Tensor], source: str) -> ModelSpec:
    """The structure behind converted weights, read off their shapes; heads are 64 wide as in all CLIP models.

    The activation is QuickGELU: every model of the family starts from OpenAI's weights.
    Raises MgvrError where a needed weight is missing.
    """
    try:
        vision_width, _, patch, _ = weights["clip.visual.conv1.weight"].shape
        tokens = weights["clip.visual.positional_embedding"].shape[0]
        context, text_width = weights["clip.positional_embedding"].shape
        dim = weights["clip.text_projection"].shape[1]
        vocabulary = weights["clip.token_embedding.weight"].shape[0]
        positions = weights["temporal.positions"].shape[0]
    except KeyError as error:
        raise _lacks(source, [_released_name(error.args[0])]) from None
    architecture: dict[str, Any] = {
        "embed_dim": dim,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": patch * round((tokens - 1) ** 0.5),
            "patch_size": patch,
            "width": vision_width,
            "head_width": HEAD_WIDTH,
            "layers": _layers(weights, "clip.visual.transformer.resblocks."),
        },
        "text_cfg": {
            "context_length": context,
            "vocab_size": vocabulary,
            "width": text_width,
            "heads": text_width // HEAD_WIDTH,
            "layers": _layers(weights, "clip.transformer.resblocks."),
        },
    }
    frames = weights["frame_mixing"].shape[0] if "frame_mixing" in weights else ModelSpec.model_fields["frames"].default
    return ModelSpec(
        architecture=architecture,
        frames=frames,
        temporal_layers=_layers(weights, "temporal.blocks."),
        temporal_positions=positions,
        text_length=min(context, ModelSpec.model_fields["text_length"].default),
    )


def _lacks(source: str, names: list[str]) -> MgvrError:
    return MgvrError(f"{source} lacks the weights {', '.join(names[:8])}: is it a whole EERCF or CLIP4Clip model?")


def _released_name(name: str) -> str:
    """Our name -> the released one, which is what a reader finds in the file."""
    for old, new in _RENAMED.items():
        if name == new:
            return old
    return next((old + name.removeprefix(new) for old, new in _PREFIXES.items() if name.startswith(new)), name)


def _prefixes(name: str) -> list[tuple[str, str]]:
    return [(old, new) for old, new in _PREFIXES.items() if name.startswith(old)]


def _layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({match[1] for name in weights if (match := pattern.match(name))})
