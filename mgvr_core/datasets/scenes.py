"""What happens in the procedural videos, and the captions that say so.

A scene is a few events one after another. In each, one shape of one colour moves over one texture. A caption names one
event by enough of its attributes to tell it from those of a few hundred other videos, or the order of two events.
No colour, shape or texture comes twice in a scene, so that a part of a caption fits one event alone.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
from pydantic import Field, model_validator

from mgvr_core.config import Section

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "pink", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
TEXTURES = ("stripes", "checks", "dots", "waves", "bricks", "clouds")
PLACES = ("top left", "top right", "bottom left", "bottom right")
SIZES = ("small", "large")
MOTIONS: Mapping[str, str] = {
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
    "grow": "grows",
    "shrink": "shrinks",
    "still": "stays still",
}

# A scene belongs to the split in whose range (percent) its hash falls.
_SHARES: Mapping[Split, range] = {"train": range(0, 70), "validation": range(70, 80), "test": range(80, 100)}


class ProceduralConfig(Section):
    """The corpus that `mgvr demo` makes. The same settings give the same frames and captions."""

    seed: int = Field(0, ge=0)
    """Another seed makes other videos."""
    train: int = Field(2600, ge=1)
    """Videos to train on."""
    validation: int = Field(150, ge=1)
    """Videos to select on."""
    test: int = Field(400, ge=1)
    """Videos to report on."""
    events: int = Field(3, ge=1, le=min(len(COLOURS), len(SHAPES), len(TEXTURES)))
    """Events a video, one after another."""
    captions_per_video: int = Field(3, ge=1)
    """Captions of each video, no two the same: at most 3 * events - 1."""
    size: int = Field(64, ge=16, le=512, multiple_of=2)
    """Width and height in pixels."""
    fps: int = Field(8, ge=1, le=60)
    """Frames a second."""
    seconds: float = Field(3.0, gt=0, le=60)
    """Length of a video."""

    @model_validator(mode="after")
    def _enough_to_say(self) -> ProceduralConfig:
        if self.captions_per_video > 3 * self.events - 1:
            raise ValueError(f"{self.events} events have {3 * self.events - 1} different captions at most")
        return self


@dataclass(frozen=True)
class Event:
    """One shape doing one thing; every attribute is one of the names above."""

    colour: str
    shape: str
    size: str
    place: str
    motion: str
    texture: str
    frames: int
    """How long it lasts."""


@dataclass(frozen=True)
class Scene:
    """One video before it is drawn."""

    id: str
    events: tuple[Event, ...]
    captions: tuple[str, ...]
    pixels: int
    """Width and height."""
    fps: int
    look: int
    """Seeds what no caption names: exact positions, tints, camera shake."""


def count(config: ProceduralConfig, split: Split) -> int:
    """How many videos a split has."""
    return {"train": config.train, "validation": config.validation, "test": config.test}[split]


def make_scene(config: ProceduralConfig, split: Split, index: int) -> Scene:
    """The scene `index` of a split: a function of the arguments alone, whatever other scenes are made.

    The splits share no sequence of events: a scene is drawn again until its hash falls in the range of its split.
    """
    rng = np.random.default_rng([config.seed, SPLITS.index(split), index])
    events = _draw_events(config, rng)
    while _bucket(events) not in _SHARES[split]:
        events = _draw_events(config, rng)
    return Scene(
        id=f"{split}-{index:05d}",
        events=events,
        captions=_draw_captions(events, config.captions_per_video, rng),
        pixels=config.size,
        fps=config.fps,
        look=int(rng.integers(2**32)),
    )


def _draw_events(config: ProceduralConfig, rng: np.random.Generator) -> tuple[Event, ...]:
    n = config.events
    colours, shapes, textures = (rng.permutation(names)[:n].tolist() for names in (COLOURS, SHAPES, TEXTURES))
    frames = _draw_lengths(n, max(n, round(config.fps * config.seconds)), rng)
    return tuple(
        Event(
            colour=colours[i],
            shape=shapes[i],
            size=_pick(SIZES, rng),
            place=_pick(PLACES, rng),
            motion=_pick(tuple(MOTIONS), rng),
            texture=textures[i],
            frames=frames[i],
        )
        for i in range(n)
    )


def _draw_lengths(events: int, frames: int, rng: np.random.Generator) -> list[int]:
    """Lengths that add up to `frames`, each cut within a tenth of an event of an even division."""
    shift = rng.uniform(-0.1, 0.1, events - 1)
    cuts = np.rint((np.arange(1, events) + shift) * frames / events).astype(int)
    return [int(length) for length in np.diff([0, *cuts, frames])]


def _bucket(events: Sequence[Event]) -> int:
    """0 to 99, from what can be seen to happen and not from how long it takes."""
    named = [(e.colour, e.shape, e.size, e.place, e.motion, e.texture) for e in events]
    return int.from_bytes(hashlib.sha256(repr(named).encode()).digest()[:8]) % 100


def _draw_captions(events: Sequence[Event], n: int, rng: np.random.Generator) -> tuple[str, ...]:
    """`n` different captions, in turn: how an event looks, how another moves, how a third looks or which is first."""
    first, *rest = (events[i] for i in rng.permutation(len(events)))
    follow = [_say_order(*pair) for pair in itertools.pairwise(events)]
    left = {
        "look": [_say_look(event) for event in (first, *reversed(rest))],
        "motion": [_say_motion(event) for event in (*rest, first)],
        "order": [follow[i] for i in rng.permutation(len(follow))],
    }
    captions: list[str] = []
    while len(captions) < n:
        kind = ("look", "motion", _pick(("look", "order"), rng))[len(captions) % 3]
        captions.append((left[kind] or max(left.values(), key=len)).pop(0))
    return tuple(captions)


# One wording for one thing: synonyms and free word order are a lesson in English, which costs a model trained for four
# minutes most of them, and says nothing of retrieval.


def _say_look(event: Event) -> str:
    """Size, colour, shape, place and texture."""
    return f"a {event.size} {event.colour} {event.shape} at the {event.place} over {event.texture}"


def _say_motion(event: Event) -> str:
    """Size, colour, shape, motion and texture."""
    return f"a {event.size} {event.colour} {event.shape} {MOTIONS[event.motion]} over {event.texture}"


def _say_order(first: Event, then: Event) -> str:
    """Two events that follow one another, each by colour, shape and texture."""
    one, other = (f"{_a(event.colour)} {event.shape} over {event.texture}" for event in (first, then))
    return f"{one}, then {other}"


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


_T = TypeVar("_T")


def _pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    return options[int(rng.integers(len(options)))]
