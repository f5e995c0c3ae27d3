"""The pixels of a scene: one shape over one texture an event, with soft edges, camera shake and sensor noise.

Coordinates run from 0 to 1 over the frame, x to the right and y downward. Shapes are signed distance functions of
(u, v), in units of the shape's radius: negative inside, 0 on the edge, so that an edge can be blended over one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mgvr_core.datasets.scenes import Event, Scene

Plane = NDArray[np.floating[Any]]

_COLOURS = {
    "red": (0.90, 0.13, 0.12),
    "orange": (0.98, 0.52, 0.08),
    "yellow": (0.98, 0.90, 0.20),
    "green": (0.16, 0.72, 0.22),
    "cyan": (0.20, 0.86, 0.90),
    "blue": (0.18, 0.33, 0.95),
    "pink": (0.97, 0.42, 0.76),
    "white": (0.97, 0.97, 0.97),
}
_CENTRES = {
    "top left": (0.32, 0.32),
    "top right": (0.68, 0.32),
    "bottom left": (0.32, 0.68),
    "bottom right": (0.68, 0.68),
}
_RADII = {"small": 0.12, "large": 0.21}
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_SCALES = {"grow": (0.5, 1.5), "shrink": (1.5, 0.5)}
_TRAVEL = 0.26  # of the frame: a shape moves within its own corner of it


def render(scene: Scene) -> NDArray[np.uint8]:
    """The frames of a scene: (T, H, W, 3) uint8 RGB. The same scene gives the same bytes."""
    clips = [
        _render_event(event, scene.pixels, np.random.default_rng([scene.look, i]))
        for i, event in enumerate(scene.events)
    ]
    return np.concatenate(clips)


def _render_event(event: Event, pixels: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    shape = (event.frames, pixels, pixels)
    axis = (np.arange(pixels, dtype=np.float32) + 0.5) / pixels
    shake_x, shake_y = rng.normal(0, 0.006, (2, event.frames, 1, 1)).astype(np.float32)
    x = np.broadcast_to(axis[None, None, :] - shake_x, shape)  # (T, H, W)
    y = np.broadcast_to(axis[None, :, None] - shake_y, shape)

    # Colour first, (3, T, H, W): numpy is several times slower where the innermost axis has 3 entries.
    dark, light = _tints(rng)
    frames = dark + (light - dark) * _TEXTURES[event.texture](x, y, rng)

    distance, v = _place_shape(event, x, y, rng)
    fill = np.array(_COLOURS[event.colour]) + rng.normal(0, 0.02, 3)
    lit = _channels(fill) * (1.0 - 0.12 * np.clip(v, -1, 1))  # light from above
    frames *= 1.0 - 0.75 * _coverage(distance - 1.2 / pixels, pixels)  # a dark rim, so that no texture swallows it
    frames += (lit - frames) * _coverage(distance, pixels)

    frames += 0.012 * rng.standard_normal(shape, dtype=np.float32)
    bytes_ = (np.clip(frames, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(bytes_, 0, -1))


def _tints(rng: np.random.Generator) -> tuple[Plane, Plane]:
    """The two muted colours of a texture, darker than every shape."""
    hue = rng.uniform(0, 2 * np.pi)
    tone = np.cos(hue + np.array([0, 2, 4]) * np.pi / 3)  # one turn of the colour wheel
    dark, light = rng.uniform(0.16, 0.26), rng.uniform(0.42, 0.56)
    return _channels(dark * (1 + 0.25 * tone)), _channels(light * (1 + 0.2 * tone))


def _channels(colour: NDArray[np.float64]) -> Plane:
    """A colour beside planes: (3,) -> (3, 1, 1, 1)."""
    return colour.astype(np.float32)[:, None, None, None]


def _place_shape(event: Event, x: Plane, y: Plane, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Signed distance from the shape's edge as a share of the frame, and v inside the shape: (T, H, W) each."""
    time = np.linspace(0, 1, event.frames, dtype=np.float32)[:, None, None]
    centre_x, centre_y = (middle + rng.uniform(-0.04, 0.04) for middle in _CENTRES[event.place])
    step_x, step_y = _DIRECTIONS.get(event.motion, (0, 0))
    first, last = _SCALES.get(event.motion, (1.0, 1.0))
    radius = _RADII[event.size] * rng.uniform(0.92, 1.08) * (first + (last - first) * time)
    u = (x - centre_x - step_x * _TRAVEL * (time - 0.5)) / radius
    v = (y - centre_y - step_y * _TRAVEL * (time - 0.5)) / radius
    tilt = rng.uniform(-0.15, 0.15)
    u, v = math.cos(tilt) * u - math.sin(tilt) * v, math.sin(tilt) * u + math.cos(tilt) * v
    return _SHAPES[event.shape](u, v) * radius, v


def _coverage(distance: Plane, pixels: int) -> Plane:
    """How much of each pixel lies inside the edge, 0 to 1, blended over one pixel."""
    share: Plane = np.clip(0.5 - distance * pixels, 0, 1)
    return share


def _circle(u: Plane, v: Plane) -> Plane:
    return np.hypot(u, v) - 0.95


def _square(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.abs(u), np.abs(v)) - 0.82


def _ring(u: Plane, v: Plane) -> Plane:
    return np.abs(np.hypot(u, v) - 0.72) - 0.26


def _cross(u: Plane, v: Plane) -> Plane:
    long, short = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return np.maximum(long - 1.0, short - 0.33)


def _moon(u: Plane, v: Plane) -> Plane:
    distance: Plane = np.maximum(np.hypot(u, v) - 1.0, 0.85 - np.hypot(u - 0.5, v))
    return distance


def _star(points: int, inner: float) -> Callable[[Plane, Plane], Plane]:
    """A star of radius 1 with its inner corners at `inner`, one point up; with cos(pi / points), a polygon."""
    half = math.pi / points
    # From a point to the next inner corner.
    edge_x, edge_y = inner * math.cos(half) - 1.0, inner * math.sin(half)
    length = math.hypot(edge_x, edge_y)

    def distance(u: Plane, v: Plane) -> Plane:
        angle = np.arctan2(u, -v)
        folded = np.abs((angle + half) % (2 * half) - half)  # every edge onto the one beside the upper point
        radius = np.hypot(u, v)
        return ((radius * np.cos(folded) - 1.0) * edge_y - radius * np.sin(folded) * edge_x) / length

    return distance


def _heart(u: Plane, v: Plane) -> Plane:
    """Two discs, and the wedge between their tangents that meet at the lower tip."""
    side, top, radius, tip = 0.45, -0.3, 0.52, 0.95
    u = np.abs(u)
    lobe = np.hypot(u - side, v - top) - radius
    # The normal of the tangent from the tip: the axis from the lobe's centre to the tip, turned outward.
    angle = math.atan2(tip - top, -side) - math.acos(radius / math.hypot(side, tip - top))
    x, y = math.cos(angle), math.sin(angle)
    wedge = np.maximum(x * u + y * (v - tip), y * (u - side) - x * (v - top))
    distance: Plane = np.minimum(lobe, np.maximum(wedge, top - v))
    return distance


_SHAPES: Mapping[str, Callable[[Plane, Plane], Plane]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _star(3, 0.5),
    "star": _star(5, 0.42),
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "moon": _moon,
}


def _stripes(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    angle, cycles, phase = rng.uniform(0, math.pi), rng.uniform(4, 5), rng.uniform()
    return _soften(_plane_wave(x, y, cycles, angle, phase), 2.0)


def _checks(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    cycles, left, top = rng.uniform(2.5, 3), rng.uniform(), rng.uniform()
    return _soften(_plane_wave(x, y, cycles, 0, left) * _plane_wave(x, y, cycles, math.pi / 2, top), 4.0)


def _dots(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    cells, left, top = rng.uniform(5, 6), rng.uniform(), rng.uniform()
    down = cells * y + top
    across = cells * x + left + 0.5 * (np.floor(down) % 2)
    return _soften(0.32 - np.hypot(across % 1 - 0.5, down % 1 - 0.5), 4.0)


def _waves(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    cycles, bends, left, top = rng.uniform(4, 5), rng.uniform(1.6, 2.2), rng.uniform(), rng.uniform()
    bend = 0.45 * _plane_wave(x, y, bends, 0, left)
    return _soften(np.sin(2 * math.pi * (cycles * y + bend + top)), 1.5)


def _bricks(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    rows, left, top = rng.uniform(5, 6), rng.uniform(), rng.uniform()
    down = rows * y + top
    across = rows / 2 * x + left + 0.5 * (np.floor(down) % 2)
    from_joint = np.minimum(0.5 - np.abs(down % 1 - 0.5), 1 - np.abs(2 * (across % 1) - 1))
    return _soften(from_joint - 0.13, 6.0)


def _clouds(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    waves = [_plane_wave(x, y, rng.uniform(1, 3), rng.uniform(0, math.pi), rng.uniform()) for _ in range(6)]
    return _soften(np.sum(waves, axis=0), 0.3)


def _plane_wave(x: Plane, y: Plane, cycles: float, angle: float, phase: float) -> Plane:
    """A sine of `cycles` a frame along a direction; the phase in turns."""
    return np.sin(2 * math.pi * (cycles * (math.cos(angle) * x + math.sin(angle) * y) + phase))


def _soften(wave: Plane, contrast: float) -> Plane:
    """0 to 1 around the zero line of a wave; a high contrast makes a hard edge."""
    pattern: Plane = np.clip(0.5 + contrast * wave, 0, 1)
    return pattern


_TEXTURES: Mapping[str, Callable[[Plane, Plane, np.random.Generator], Plane]] = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "waves": _waves,
    "bricks": _bricks,
    "clouds": _clouds,
}
