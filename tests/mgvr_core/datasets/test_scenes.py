from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgvr_core.datasets.scenes import (
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    SPLITS,
    TEXTURES,
    Event,
    ProceduralConfig,
    Scene,
    make_scene,
)


@st.composite
def draw_config(draw):
    events = draw(st.integers(1, 6))
    return ProceduralConfig(
        seed=draw(st.integers(0, 1000)),
        events=events,
        captions_per_video=draw(st.integers(1, 3 * events - 1)),
        size=draw(st.sampled_from([16, 48, 64])),
        fps=draw(st.integers(1, 12)),
        seconds=draw(st.floats(0.5, 5)),
    )


configs = draw_config()


def read_mention(text: str) -> dict[str, str]:
    """The attributes that one part of a caption names, found by words and not by how it was put together."""
    found = {
        "colour": re.findall(rf"\b({'|'.join(COLOURS)})\b", text),
        "shape": re.findall(rf"\b({'|'.join(SHAPES)})\b", text),
        "texture": re.findall(rf"\b({'|'.join(TEXTURES)})\b", text),
        "place": re.findall(r"\b(?:top|bottom) (?:left|right)\b", text),
        "size": re.findall(rf"\b({'|'.join(SIZES)})\b", text),
        "motion": [name for name, words in MOTIONS.items() if words in text],
    }
    assert all(len(names) <= 1 for names in found.values()), text
    return {attribute: names[0] for attribute, names in found.items() if names}


def read_caption(caption: str) -> list[dict[str, str]]:
    """The events that a caption names, in the order in which it says they happen."""
    return [read_mention(part) for part in caption.split(", then ")]


def fits(mention: dict[str, str], event: Event) -> bool:
    return all(getattr(event, attribute) == name for attribute, name in mention.items())


def is_true(caption: list[dict[str, str]], scene: Scene) -> bool:
    """Whether the named events are in the scene, one after another."""
    remaining = iter(scene.events)
    return all(any(fits(mention, event) for event in remaining) for mention in caption)


@pytest.fixture(scope="module")
def test_split() -> list[Scene]:
    config = ProceduralConfig()
    return [make_scene(config, "test", index) for index in range(config.test)]


@settings(max_examples=80, deadline=None)
@given(config=configs, split=st.sampled_from(SPLITS), index=st.integers(0, 10**6))
def test_every_caption_is_true_of_its_scene_and_names_an_event(config, split, index):
    scene = make_scene(config, split, index)
    assert len(set(scene.captions)) == len(scene.captions) == config.captions_per_video
    for caption in scene.captions:
        mentions = read_caption(caption)
        assert is_true(mentions, scene), (caption, scene.events)
        assert all({"colour", "shape"} < mention.keys() for mention in mentions)


def test_the_reader_of_captions_notices_a_false_one(test_split):
    """The test above would pass with a reader that understands nothing."""
    for scene in test_split[:50]:
        for caption in scene.captions:
            mentions = read_caption(caption)
            for attribute, name in mentions[0].items():
                (event,) = (event for event in scene.events if fits(mentions[0], event))
                other = next(n for n in ("red", "blue", "top left", "top right", "up", "down") if n != name)
                assert not fits({**mentions[0], attribute: other}, event)
            if len(mentions) == 2:
                assert not is_true(mentions[::-1], scene)


def test_captions_vary_in_kind_within_a_small_vocabulary(test_split):
    captions = [caption for scene in test_split for caption in scene.captions]
    kinds = [
        ("order" if len(m) == 2 else "motion" if "motion" in m[0] else "place") for m in map(read_caption, captions)
    ]
    assert {kind: kinds.count(kind) / len(kinds) > 0.1 for kind in kinds} == {
        "order": True,
        "motion": True,
        "place": True,
    }
    assert len({word for caption in captions for word in re.findall(r"\w+", caption)}) < 150
    assert max(len(caption.split()) for caption in captions) <= 20


def test_most_test_captions_fit_one_video_of_the_split(test_split):
    captions = [read_caption(caption) for scene in test_split for caption in scene.captions]
    right = [sum(is_true(caption, scene) for scene in test_split) for caption in captions]
    assert min(right) == 1
    assert right.count(1) / len(right) > 0.7
    # The R@1 of a searcher that understands everything and guesses between the videos that fit.
    assert sum(1 / n for n in right) / len(right) > 0.8


@settings(max_examples=50, deadline=None)
@given(config=configs, split=st.sampled_from(SPLITS), index=st.integers(0, 10**6))
def test_a_scene_is_as_long_as_asked_and_repeats_no_colour_shape_or_texture(config, split, index):
    events = make_scene(config, split, index).events
    assert len(events) == config.events
    assert sum(event.frames for event in events) == max(config.events, round(config.fps * config.seconds))
    assert min(event.frames for event in events) >= 1
    for attribute in ("colour", "shape", "texture"):
        assert len({getattr(event, attribute) for event in events}) == len(events)


def test_a_scene_depends_on_seed_split_and_index_alone():
    config = ProceduralConfig()
    scene = make_scene(config, "train", 7)
    make_scene(config, "train", 8)
    assert make_scene(config, "train", 7) == scene
    assert make_scene(ProceduralConfig(train=9, test=9, validation=9), "train", 7) == scene
    others = [
        make_scene(config, "train", 8),
        make_scene(config, "test", 7),
        make_scene(ProceduralConfig(seed=1), "train", 7),
    ]
    assert all(other.events != scene.events for other in others)


def test_ids_say_split_and_index():
    assert make_scene(ProceduralConfig(), "test", 17).id == "test-00017"


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_scene_of_one_split_can_be_drawn_in_another(seed):
    """With one event there are few enough scenes for splits that are not disjoint to meet."""
    config = ProceduralConfig(seed=seed, events=1, captions_per_video=2)
    drawn = {}
    for split in SPLITS:
        scenes = (make_scene(config, split, index).events[0] for index in range(600))
        drawn[split] = {(e.colour, e.shape, e.size, e.place, e.motion, e.texture) for e in scenes}
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["validation"] & drawn["test"]
