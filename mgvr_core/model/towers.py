"""CLIP's two towers by open_clip: one image to its frame and patch vectors, one text to its vector."""

from __future__ import annotations

from typing import Any

import open_clip
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import Transformer, VisionTransformer, text_global_pool
from torch import Tensor, nn
from torch.nn.functional import pad

from mgvr_core.errors import MgvrError

Clip = Any
"""open_clip's CLIP or CustomTextCLIP: its towers differ too much in their attributes for a type to say more."""


def build_clip(architecture: dict[str, Any]) -> Clip:
    """Towers with fresh weights from an open_clip configuration; raises MgvrError where open_clip refuses it."""
    config = dict(architecture)
    own_text = config.pop("custom_text", False) or "hf_model_name" in config.get("text_cfg", {})
    kind = CustomTextCLIP if own_text else CLIP
    try:
        return kind(**config)
    except (TypeError, AssertionError, RuntimeError) as error:
        raise MgvrError(f"open_clip {open_clip.__version__} can't build the model's towers: {error}") from error


def plain_towers(clip: Clip) -> dict[str, nn.Module]:
    """`image` and `text`: the parts that hold each tower's transformer and what stands behind it.

    Raises MgvrError for a tower that is no plain transformer of open_clip's (ResNet, timm, Hugging Face): its blocks
    can't be told apart, and what open_clip offers for all towers alike does nothing there, without a word.
    """
    towers = {"image": clip.visual, "text": clip if hasattr(clip, "transformer") else clip.text}
    for side, tower in towers.items():
        if not isinstance(getattr(tower, "transformer", None), Transformer):
            raise MgvrError(
                f"the {side} tower is no plain transformer, so its blocks can't be told apart: train all or the heads "
                "(trained), and without memory.checkpointing"
            )
    return towers


def has_patches(clip: Clip) -> bool:
    """Whether the image tower's other tokens lie in the space of its class token: else patch scores mean nothing."""
    visual = clip.visual
    return bool(
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.final_ln_after_pool
    )


def encode_images(clip: Clip, images: Tensor, patches: bool) -> tuple[Tensor, Tensor | None]:
    """images (N, 3, H, W) normalised -> frame vectors (N, D) and, if asked for, patch vectors (N, P, D); unnormalised.

    The frame is the class token after ln_post @ proj, the patches the other tokens through the same two layers
    (docs/method.md, section 1).
    """
    visual = clip.visual
    if not patches:
        return clip.encode_image(images), None
    # Set only around the call: open_clip's own callers expect one tensor.
    visual.output_tokens = True
    try:
        frames, tokens = visual(images)  # (N, D) and (N, P, width), the tokens after ln_post
    finally:
        visual.output_tokens = False
    return frames, tokens @ visual.proj  # (N, P, width) @ (width, D)


def encode_texts(clip: Clip, ids: Tensor) -> Tensor:
    """Ids (B, L) -> text vectors (B, D), unnormalised, with L at most the tower's context length.

    CLIP's text tower is causal, so nothing after the end marker matters and only L positions are computed: open_clip's
    own encode_text would want all 77. Towers that are not causal, or not CLIP's own, get the length they insist on.
    """
    text: Tensor
    if not isinstance(clip, CLIP) or clip.attn_mask is None:
        text = clip.encode_text(pad(ids, (0, clip.context_length - ids.shape[1])))
        return text
    length = ids.shape[1]
    x = clip.token_embedding(ids) + clip.positional_embedding[:length]  # (B, L, width)
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
    text = text_global_pool(x, ids, clip.text_pool_type, eos_token_id=clip.text_eos_id)  # (B, width)
    if isinstance(clip.text_projection, nn.Linear):
        text = clip.text_projection(text)
    elif clip.text_projection is not None:
        text = text @ clip.text_projection  # (B, width) @ (width, D)
    return text
