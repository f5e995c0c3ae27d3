"""The EERCF model: videos and texts to features of three granularities (docs/method.md, section 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mgvr_core.errors import MgvrError
from mgvr_core.model.spec import ModelSpec
from mgvr_core.model.temporal import TemporalEncoder
from mgvr_core.model.towers import (
    Clip,
    build_clip,
    encode_images,
    encode_texts,
    encode_words,
    has_patches,
    plain_towers,
)
from mgvr_core.scoring.features import VideoFeatures

MAX_LOGIT_SCALE = math.log(100.0)


class EERCF(nn.Module):
    """CLIP's towers, the temporal encoder, and the learned W and U.

    Parameters beyond the towers: `video_projection` W (D, D) of the coarse score, `frame_mixing` U (F, F) of the weak
    frame score (both start as the identity), and the temporal encoder, which starts as a copy of the text tower's first
    blocks where the widths allow it.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.clip: Clip = build_clip(spec.architecture)
        self.temporal = TemporalEncoder(spec.dim, spec.temporal_layers, spec.temporal_positions)
        self.video_projection = nn.Parameter(torch.eye(spec.dim))
        self.frame_mixing = nn.Parameter(torch.eye(spec.frames))

    @property
    def has_patches(self) -> bool:
        """Whether this model's image tower gives patch features."""
        return has_patches(self.clip)

    @property
    def patches_per_frame(self) -> int:
        """P, or 0 for a tower that gives none."""
        if not self.has_patches:
            return 0
        rows, columns = self.clip.visual.grid_size
        return int(rows * columns)

    def start_temporal_from_text(self) -> bool:
        """Initialise the temporal encoder from the text tower; False where it does not fit and stays random."""
        tower = self.clip if hasattr(self.clip, "transformer") else self.clip.text
        try:
            self.temporal.start_from_text(tower.transformer.resblocks, tower.positional_embedding)
        except (ValueError, AttributeError):
            return False
        return True

    def recompute_activations(self) -> None:
        """From here on compute the towers' blocks again in the backward pass instead of keeping what is inside them.

        Raises MgvrError for a tower that is no plain transformer.
        """
        for tower in plain_towers(self.clip).values():
            tower.transformer.grad_checkpointing = True  # type: ignore[union-attr]

    def logit_scale(self) -> Tensor:
        """s = exp(logit_scale), at most 100: a scalar tensor with its gradient."""
        scale: Tensor = self.clip.logit_scale
        return scale.clamp(max=MAX_LOGIT_SCALE).exp().reshape(())

    def mixing_for(self, frames: int, enabled: bool = True) -> Tensor | None:
        """U for videos of `frames` frames, or None (the identity) where it is switched off.

        Raises MgvrError where U was trained with another number of frames: its entries mean nothing there.
        """
        if not enabled:
            return None
        if frames != self.spec.frames:
            raise MgvrError(
                f"the model's frame mixing U was trained at {self.spec.frames} frames, but the videos have {frames}. "
                f"Take {self.spec.frames} frames a video (sampling.frames), give a fresh model that many "
                "(model.frames), or search without U (mgvr retrieve --frame_mixing false)."
            )
        return self.frame_mixing

    def encode_text(self, ids: Tensor) -> Tensor:
        """Token ids (B, L) -> text vectors (B, D), unnormalised."""
        return encode_texts(self.clip, ids)

    def encode_words(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids (B, L) -> t^ (B, D) and w^ (B, L, D) of unit length, fp32 at least, and which words there are.

        t^ is `encode_text`'s. The mask (B, L) bool is True from the start marker to the end marker, both included; w^
        is zero elsewhere. Raises MgvrError where the tower's tokens have no place in the joint space.
        """
        text, words, mask = encode_words(self.clip, ids)
        return _unit(text), _unit(words).masked_fill(~mask.unsqueeze(-1), 0.0), mask

    def encode_frames(self, pixels: Tensor, mask: Tensor, patches: bool) -> tuple[Tensor, Tensor | None]:
        """pixels (V, F, 3, H, W) normalised, mask (V, F) bool -> frames (V, F, D), patches (V, F, P, D); unnormalised.

        Only valid frames go through the tower; the places of padded ones are zero.
        """
        if patches and not self.has_patches:
            raise MgvrError(f"the image tower of {self.spec.name or 'this model'} gives no patch features")
        V, F = mask.shape
        frames, tokens = encode_images(self.clip, pixels[mask], patches)  # (n, D), (n, P, D) for n valid frames
        return _scatter(frames, mask, V, F), None if tokens is None else _scatter(tokens, mask, V, F)

    def video_features(self, frames: Tensor, patches: Tensor | None, mask: Tensor) -> VideoFeatures:
        """Unnormalised frames (V, F, D) and patches (V, F, P, D) -> the features of docs/method.md, section 1.

        What belongs to a padded frame must be zero, as `encode_frames` leaves it.
        """
        temporal = _unit(self.temporal(frames, mask))
        # Padded frames are zero already; normalise leaves zeros as they are.
        total = temporal.sum(dim=1)  # (V, F, D) -> (V, D); the mean's divisor falls out of the normalisation
        return VideoFeatures(
            video=_unit(total),
            frames=_unit(frames),
            temporal=temporal,
            patches=None if patches is None else _unit(patches),
            mask=mask,
        )

    def encode_videos(self, pixels: Tensor, mask: Tensor, patches: bool) -> VideoFeatures:
        """pixels (V, F, 3, H, W) normalised, mask (V, F) bool -> VideoFeatures."""
        return self.video_features(*self.encode_frames(pixels, mask, patches), mask)


def _scatter(rows: Tensor, mask: Tensor, V: int, F: int) -> Tensor:
    """Rows of valid frames (n, …) back to their places (V, F, …), zero elsewhere."""
    return rows.new_zeros((V, F, *rows.shape[1:])).index_put((mask,), rows)


def _unit(vectors: Tensor) -> Tensor:
    """Vectors (…, D) of unit length, in fp32 at least: in bfloat16 their lengths would be off by up to 0.4 %."""
    return normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
