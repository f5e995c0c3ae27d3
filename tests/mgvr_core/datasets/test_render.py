from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mgvr_core.datasets.render import render
from mgvr_core.datasets.scenes import (
    COLOURS,
    MOTIONS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Event,
    ProceduralConfig,
    Scene,
    make_scene,
)

BASE = Event(colour="red", shape="circle", size="large", place="top left", motion="still", texture="stripes", frames=8)


def draw(look: int = 1, pixels: int = 64, **attributes: object) -> np.ndarray:
    """The frames of one event, (8, H, W, 3)."""
    return render(Scene("x", (replace(BASE, **attributes),), (), pixels, 8, look))


def shape_mask(frames: np.ndarray) -> np.ndarray:
    """Where the red shape is, (T, H, W): textures are muted, red is not."""
    red, green, blue = np.moveaxis(frames.astype(int), -1, 0)
    return red - np.maximum(green, blue) > 70


def track(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shape's centre (T, 2), x and y from 0 to 1, and its area (T,) as a share of the frame."""
    mask = shape_mask(frames)
    axis = (np.arange(mask.shape[-1]) + 0.5) / mask.shape[-1]
    area = mask.sum((1, 2))
    centre = np.stack([(mask * axis).sum((1, 2)), (mask * axis[:, None]).sum((1, 2))], 1) / area[:, None]
    return centre, area / mask[0].size


def test_frames_have_the_scene_s_size_and_vary():
    config = ProceduralConfig(size=48, fps=10, seconds=2)
    scene = make_scene(config, "train", 0)
    frames = render(scene)
    assert (frames.shape, frames.dtype) == ((20, 48, 48, 3), np.uint8)
    assert frames.flags.c_contiguous
    assert frames.std() > 20


def test_the_same_scene_gives_the_same_bytes_and_another_look_does_not():
    scene = make_scene(ProceduralConfig(), "train", 3)
    assert np.array_equal(render(scene), render(scene))
    assert not np.array_equal(render(scene), render(replace(scene, look=scene.look + 1)))


@pytest.mark.parametrize("look", range(5))
@pytest.mark.parametrize("place", PLACES)
def test_the_shape_is_where_its_place_says(place, look):
    centre, _ = track(draw(look, place=place))
    x, y = centre.mean(0)
    assert (y < 0.5, x < 0.5) == (place.startswith("top"), place.endswith("left"))


@pytest.mark.parametrize("look", range(5))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("motion", MOTIONS)
def test_the_shape_moves_as_its_motion_says(motion, size, look):
    centre, area = track(draw(look, motion=motion, size=size))
    x, y = centre[-1] - centre[0]
    growth = area[-1] / area[0]
    expected = {"left": (-1, 0, 0), "right": (1, 0, 0), "up": (0, -1, 0), "down": (0, 1, 0)}
    expected |= {"grow": (0, 0, 1), "shrink": (0, 0, -1), "still": (0, 0, 0)}
    seen = (
        int(np.sign(x)) if abs(x) > 0.12 else 0,
        int(np.sign(y)) if abs(y) > 0.12 else 0,
        1 if growth > 2 else -1 if growth < 0.5 else 0,
    )
    assert seen == expected[motion]


def test_large_is_larger_than_small():
    for look in range(5):
        small, large = (track(draw(look, size=size))[1].mean() for size in ("small", "large"))
        assert large > 2 * small


def test_the_shape_has_its_colour():
    """The middle of a square is nearest to its own colour's name among all drawn colours."""
    middles = {colour: draw(2, colour=colour, shape="square")[:, 18:24, 18:24].mean((0, 1, 2)) for colour in COLOURS}
    for colour, middle in middles.items():
        other = draw(3, colour=colour, shape="square")[:, 18:24, 18:24].mean((0, 1, 2))
        assert min(middles, key=lambda name: np.abs(middles[name] - other).sum()) == colour, (colour, middle)


def test_shapes_differ_in_more_than_their_edges():
    masks = {shape: shape_mask(draw(4, shape=shape))[0] for shape in SHAPES}
    for first in SHAPES:
        for second in SHAPES[: SHAPES.index(first)]:
            overlap = (masks[first] & masks[second]).sum() / (masks[first] | masks[second]).sum()
            assert overlap < 0.85, (first, second)


@pytest.mark.parametrize("texture", TEXTURES)
def test_every_texture_has_contrast_and_stays_darker_than_the_shape(texture):
    for look in range(5):
        frames = draw(look, texture=texture, colour="white")
        far = frames[:, 40:, 40:].astype(float).mean(-1)
        assert far.std() > 12
        assert far.max() < 190 < frames[:, 18:24, 18:24].mean()


def test_edges_are_blended():
    """Between the shape's colour and its rim there are pixels of neither: a share that grows with the outline only."""
    mask = draw(5, pixels=64, texture="clouds").astype(int)[0, :, :, 0]
    levels = np.unique(mask[10:32, 10:32])
    assert len(levels) > 40
