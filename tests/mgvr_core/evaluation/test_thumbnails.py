"""Pictures inside the page: small, in order, in the right proportions."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from mgvr_core.evaluation.thumbnails import thumbnail


def opened(uri):
    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def plain(value, height=90, width=160):
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("frames", "size"),
    [
        ([plain(0)], (160, 90)),
        ([plain(0, 160, 90)], (90, 160)),
        ([plain(0)] * 4, (160, 90)),
        ([plain(0)] * 2, (160, 45)),
    ],
)
def test_proportions_are_kept(frames, size):
    assert opened(thumbnail(frames, side=160)).size == size


def test_frames_stand_in_reading_order():
    sheet = np.asarray(opened(thumbnail([plain(value) for value in (0, 80, 160, 240)], side=160)).convert("L")).astype(
        int
    )

    corners = [sheet[20, 40], sheet[20, 120], sheet[70, 40], sheet[70, 120]]
    assert np.abs(np.array(corners) - [0, 80, 160, 240]).max() < 6


def test_a_noisy_frame_stays_small():
    noise = np.random.default_rng(0).integers(256, size=(720, 1280, 3), dtype=np.uint8)

    assert len(thumbnail([noise])) < 20_000
