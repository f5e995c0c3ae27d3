from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torchvision.transforms import functional

from mgvr_core.config import parse
from mgvr_core.errors import MgvrError
from mgvr_core.video.preprocess import PreprocessConfig
from mgvr_core.video.thumbnail import thumbnail


def test_frames_are_normalised_as_clip_was_trained() -> None:
    frames = torch.randint(0, 256, (2, 3, 8, 10, 3), dtype=torch.uint8)
    ours = PreprocessConfig().normalise(frames)
    assert ours.dtype == torch.float32
    assert ours.shape == (2, 3, 3, 8, 10)
    theirs = functional.normalize(frames.movedim(-1, -3) / 255, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    torch.testing.assert_close(ours, theirs)


def test_no_other_interpolation_can_be_configured() -> None:
    with pytest.raises(MgvrError, match="interpolation"):
        parse(PreprocessConfig, {"interpolation": "nearest"}, "a test")


def test_a_thumbnail_is_a_small_jpeg_of_the_same_picture() -> None:
    frame = np.zeros((224, 112, 3), np.uint8)
    frame[:112] = (255, 0, 0)
    image = Image.open(io.BytesIO(thumbnail(frame, 96)))
    assert image.format == "JPEG"
    assert image.size == (48, 96)
    pixels = np.asarray(image)
    np.testing.assert_allclose(pixels[10, 24], (255, 0, 0), atol=8)
    np.testing.assert_allclose(pixels[85, 24], 0, atol=8)
