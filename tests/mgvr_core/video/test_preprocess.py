from __future__ import annotations

import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torchvision.transforms import functional

from mgvr_core.config import parse
from mgvr_core.errors import MgvrError
from mgvr_core.video.preprocess import PreprocessConfig


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
