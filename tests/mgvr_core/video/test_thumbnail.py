"""Pictures of videos for a report: small, in order, in the right proportions."""

import io

import numpy as np
import pytest
from PIL import Image

from mgvr_core.video.thumbnail import thumbnail


def opened(jpeg):
    return Image.open(io.BytesIO(jpeg))


def plain(*values, height=90, width=160):
    return np.stack([np.full((height, width, 3), value, np.uint8) for value in values])


@pytest.mark.parametrize(
    ("frames", "size"),
    [
        (plain(0), (160, 90)),
        (plain(0, height=160, width=90), (90, 160)),
        (plain(0, 0, 0, 0), (160, 90)),
        (plain(0, 0), (160, 45)),
        (plain(*range(12)), (160, 90)),
    ],
)
def test_proportions_are_kept(frames, size):
    assert opened(thumbnail(frames, side=160)).size == size


def test_frames_from_first_to_last_stand_in_reading_order():
    frames = plain(0, 10, 80, 90, 160, 170, 240)  # 0, 80, 160 and 240 are the four evenly spread ones

    sheet = np.asarray(opened(thumbnail(frames, side=160)).convert("L")).astype(int)

    corners = [sheet[20, 40], sheet[20, 120], sheet[70, 40], sheet[70, 120]]
    assert np.abs(np.array(corners) - [0, 80, 160, 240]).max() < 6


def test_a_noisy_frame_stays_small():
    noise = np.random.default_rng(0).integers(256, size=(1, 720, 1280, 3), dtype=np.uint8)

    assert len(thumbnail(noise, side=176)) < 20_000
