"""CLIP's two towers by open_clip: one image to its frame and patch vectors, one text to its vector."""

from __future__ import annotations

from typing import Any

import open_clip
import torch
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
    if not _is_causal_clip(clip):
        text: Tensor = clip.encode_text(pad(ids, (0, clip.context_length - ids.shape[1])))
        return text
    return _pool(clip, _causal_tokens(clip, ids), ids)


def encode_words(clip: Clip, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (B, L) -> text vectors (B, D), `encode_texts`'s own; token vectors (B, L, D); which of them count (B, L).

    Both kinds of vectors are unnormalised. A token's is what ln_final @ text_projection makes of it, as it makes the
    text's of the end marker: what token-wise systems (FILIP, X-CLIP, DRL) call a word. The mask is True from the start
    marker to the end marker, both included. Raises MgvrError for a tower that makes the text's vector of anything but
    its end marker: there the other tokens lie in no joint space, or nothing says where the text ends.
    """
    tower = clip if isinstance(clip, CLIP) else clip.text
    kind, end = ("text_pool_type", "text_eos_id") if tower is clip else ("pool_type", "eos_id")
    pool = getattr(tower, kind, "of its own kind")
    if getattr(tower, "cls_emb", None) is not None:
        pool = "class token"
    if pool not in ("argmax", "eos"):
        raise MgvrError(
            f"this text tower does not make a text's vector of its end marker (pooling: {pool}), so its other tokens "
            "have no place in the joint space: scorers that read words need a model with CLIP's own kind of text tower"
        )
    text: Tensor
    length = ids.shape[1]
    if _is_causal_clip(clip):
        tokens = _causal_tokens(clip, ids)  # (B, L, width)
        text = _pool(clip, tokens, ids)
    else:
        whole = pad(ids, (0, clip.context_length - length))
        if tower is clip:
            tokens = clip.ln_final(clip.transformer(clip.token_embedding(whole) + clip.positional_embedding))
            text = _pool(clip, tokens, whole)
        else:
            # Set only around the call, as for images.
            tower.output_tokens = True
            try:
                text, tokens = tower(whole)  # (B, D) and (B, context, width), the tokens after ln_final
            finally:
                tower.output_tokens = False
        tokens = tokens[:, :length]
    last = ids.argmax(dim=-1) if pool == "argmax" else (ids == getattr(tower, end)).int().argmax(dim=-1)  # (B,)
    mask = torch.arange(length, device=ids.device) <= last.unsqueeze(1)  # (B, L)
    return text, _project(tower, tokens), mask


def _is_causal_clip(clip: Clip) -> bool:
    return isinstance(clip, CLIP) and clip.attn_mask is not None


def _causal_tokens(clip: Clip, ids: Tensor) -> Tensor:
    """Ids (B, L) -> tokens after ln_final (B, L, width)."""
    length = ids.shape[1]
    x = clip.token_embedding(ids) + clip.positional_embedding[:length]  # (B, L, width)
    tokens: Tensor = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
    return tokens


def _pool(clip: Clip, tokens: Tensor, ids: Tensor) -> Tensor:
    """Tokens after ln_final (B, L, width) of ids (B, L) -> text vectors (B, D)."""
    return _project(clip, text_global_pool(tokens, ids, clip.text_pool_type, eos_token_id=clip.text_eos_id))


def _project(tower: Clip, x: Tensor) -> Tensor:
    """Into the joint space: (..., width) -> (..., D)."""
    if isinstance(tower.text_projection, nn.Linear):
        projected: Tensor = tower.text_projection(x)
        return projected
    return x if tower.text_projection is None else x @ tower.text_projection
