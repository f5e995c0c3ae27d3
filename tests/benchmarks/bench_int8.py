"""What int8 saves on this machine's CPU, and what it costs: against fp32, in one run, on real frames.

Random weights are the mild case: their activations have no channel that stands out. The demo's model is trained, but
small: its layers are too narrow for int8 to pay.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mgvr_core.errors import MgvrError
from mgvr_core.model import checkpoint
from mgvr_core.model.eercf import EERCF
from mgvr_core.model.int8 import quantise
from mgvr_core.model.spec import ModelSpec, named_architecture
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.video.decoders import MAX_PIXELS, Request, load
from mgvr_core.video.preprocess import PreprocessConfig
from mgvr_core.video.sampling import SamplingConfig

CHECKOUT = Path(__file__).resolve().parents[2]
CLIPS = (CHECKOUT / ".." / "shared" / "clips" / "good").resolve()
TRAINED = CHECKOUT / "runs" / "demo" / "train" / "model"
THREADS = 2

pytestmark = pytest.mark.skipif(not CLIPS.exists(), reason="../shared/clips/good is not beside this checkout")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(threads)


def build(name: str) -> EERCF:
    if name == "trained":
        if not TRAINED.exists():
            pytest.skip(f"{TRAINED.relative_to(CHECKOUT)} is not there: make demo makes it")
        return checkpoint.load(TRAINED).model
    torch.manual_seed(0)
    return EERCF(ModelSpec(architecture=named_architecture(name), name=name)).eval()


def real_videos(spec: ModelSpec, videos: int) -> Tensor:
    """Pixels (V, F, 3, S, S), normalised, of the first clips that have as many frames as are wanted."""
    decode, _ = load("pyav")
    sampling = SamplingConfig(strategy="uniform", frames=spec.frames)
    pixels: list[Tensor] = []
    for path in sorted(CLIPS.iterdir()):
        try:
            clip = decode(Request(str(path), sampling, spec.image_size), MAX_PIXELS)
        except MgvrError:
            continue
        if len(clip.frames) == spec.frames:
            pixels.append(torch.from_numpy(clip.frames))
        if len(pixels) == videos:
            break
    else:
        pytest.skip(f"fewer than {videos} clips could be read")
    return PreprocessConfig(size=spec.image_size, mean=spec.image_mean, std=spec.image_std).normalise(
        torch.stack(pixels)
    )


@pytest.mark.parametrize(("name", "videos"), [("ViT-B-32-quickgelu", 8), ("ViT-B-32-quickgelu", 1), ("trained", 32)])
def test_int8_against_fp32(name: str, videos: int, race) -> None:
    fp32 = build(name)
    int8 = quantise(fp32)
    pixels = real_videos(fp32.spec, videos)
    mask = torch.ones(pixels.shape[:2], dtype=torch.bool)

    def encode(model: EERCF) -> VideoFeatures:
        with torch.inference_mode():
            return model.encode_videos(pixels, mask, patches=True)

    theirs, ours = encode(fp32), encode(int8)
    kinds = ("video", "frames", "temporal", "patches")
    cosines = {kind: float((getattr(ours, kind) * getattr(theirs, kind)).sum(dim=-1).min()) for kind in kinds}
    ratio = race(lambda: encode(fp32), lambda: encode(int8))
    print(
        f"\n{name}, {videos} x {fp32.spec.frames} frames at once, {THREADS} threads "
        f"({torch.backends.cpu.get_cpu_capability()}): int8 encodes {ratio:.2f} times as many as fp32; least cosine: "
        + ", ".join(f"{kind} {cosine:.5f}" for kind, cosine in cosines.items())
    )
    assert min(cosines.values()) >= 0.99
