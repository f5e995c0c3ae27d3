from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional

from mgvr_core.video.geometry import fit

sides = st.integers(1, 400)


@given(sides, sides, st.integers(1, 64))
def test_scaling_and_cutting_is_that_of_clips_own_preprocessing(width: int, height: int, size: int) -> None:
    # A picture whose pixels tell their column and row; nearest neighbour keeps them legible.
    scaled_w, scaled_h, crop_x, crop_y = fit(width, height, size)
    theirs = functional.resize(Image.new("L", (width, height)), size)
    assert (scaled_w, scaled_h) == theirs.size
    columns = Image.new("I", (scaled_w, scaled_h))
    columns.putdata([x + y * scaled_w for y in range(scaled_h) for x in range(scaled_w)])
    corner = functional.center_crop(columns, [size, size]).getpixel((0, 0))
    assert corner == crop_x + crop_y * scaled_w


@given(st.integers(1, 20000), st.integers(1, 20000), st.integers(1, 512))
def test_the_square_lies_inside_the_scaled_frame(width: int, height: int, size: int) -> None:
    scaled_w, scaled_h, crop_x, crop_y = fit(width, height, size)
    assert min(scaled_w, scaled_h) == size
    assert 0 <= crop_x <= scaled_w - size
    assert 0 <= crop_y <= scaled_h - size
