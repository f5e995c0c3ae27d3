"""Score `video`: the coarse score of stage 1, one dot product a pair."""

from __future__ import annotations

from torch import Tensor


def project_text(text: Tensor, projection: Tensor) -> Tensor:
    """q = t^ W, the stage-1 query: text (T, D), projection W (D, D) -> (T, D), *not* of unit length.

    Searching q by inner product ranks as t^ W v^ does; searching it by cosine does too for one text, but its scores
    could not be compared between texts.
    """
    return text @ projection


def video_score(text: Tensor, video: Tensor, projection: Tensor) -> Tensor:
    """t^ W v^ (docs/method.md, section 2): text (T, D), video (V, D), projection W (D, D) -> (T, V)."""
    return project_text(text, projection) @ video.T


def multiply_adds(dim: int) -> int:
    """Multiply-adds a pair, the projection of the text not counted (once a text, not once a pair)."""
    return dim
