"""Where a frame of any size lands in the model's square: short side to `size`, then the middle."""

from __future__ import annotations


def fit(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """(scaled_w, scaled_h, crop_x, crop_y) in pixels: scale to the first two, then cut `size` x `size` at the others.

    The rounding is CLIP's own preprocessing's (torchvision's Resize and CenterCrop): the long side is cut to a whole
    pixel, the offset rounded half to even. Pixels count as square: CLIP4Clip and EERCF ignore a sample aspect ratio,
    and features that are to compare with theirs must do the same.
    """
    if width <= height:
        scaled_w, scaled_h = size, size * height // width
    else:
        scaled_w, scaled_h = size * width // height, size
    return scaled_w, scaled_h, round((scaled_w - size) / 2), round((scaled_h - size) / 2)
