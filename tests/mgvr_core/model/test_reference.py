"""Parity with what the paper's authors' released model computes, on checkpoints in the released format."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from mgvr_core.model.eercf import EERCF
from mgvr_core.model.load import ModelConfig, load_model
from mgvr_core.retrieval import coarse, two_stage
from mgvr_core.retrieval.fine import fine_shard
from mgvr_core.retrieval.rerank import Reranker, score_pairs
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.scoring.fusion import FusionWeights, score_each
from mgvr_core.scoring.tib_frame import tib_frame_vector
from mgvr_core.scoring.tib_patch import tib_patch_vector
from mgvr_core.scoring.video import project_text
from mgvr_core.training.losses import LossConfig, eercf_loss, pearson_constraint

DEFAULT = Path(__file__).resolve().parents[3] / ".." / "shared" / "reference"

INPUTS = {"pixels", "ids"}
LOSSES = {"pearson", "weak_loss", "strong_loss", "loss"}
FEATURE_TOLERANCE, LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-5, 1e-3

SCORES = {
    "eval_video": "video",
    "eval_frame_weak": "frame_weak",
    "eval_frame_strong": "tib_frame",
    "eval_patch_weak": "patch_weak",
    "eval_patch_strong_eval": "tib_patch",
}
RENAMED = {
    "global_mat_weight": "video_projection",
    "frame_logit_weight": "frame_mixing",
    "frame_position_embeddings.weight": "temporal.positions",
}


def reference_folder() -> Path:
    chosen = os.environ.get("MGVR_REFERENCE")
    if chosen is None and not DEFAULT.is_dir():
        pytest.skip("no reference numbers: ../shared/reference is not beside this checkout, MGVR_REFERENCE is not set")
    return Path(chosen) if chosen else DEFAULT


def test_reference_parity() -> None:
    folder = reference_folder()
    pairs = [(file, file.with_suffix(".npz")) for file in sorted(folder.glob("*.pt"))]
    pairs = [(weights, arrays) for weights, arrays in pairs if arrays.is_file()]
    assert pairs, f"{folder} holds no pair STEM.pt, STEM.npz"
    misfits = [
        f"{weights.stem}: {line}" for weights, arrays in pairs for line in compare(weights, dict(np.load(arrays)))
    ]
    assert not misfits, "\n" + "\n".join(misfits)


def compare(weights: Path, expected: dict[str, NDArray]) -> list[str]:
    """One line for every array that is not reproduced, or that nothing here reproduces."""
    model = load_model(ModelConfig(checkpoint=str(weights))).model
    k = next((int(match[1]) for key in expected if (match := re.fullmatch(r"two_stage_top(\d+)", key))), None)
    mine = reproduce(model, torch.from_numpy(expected["pixels"]), torch.from_numpy(expected["ids"]), k)
    return [line for key in expected.keys() - INPUTS for line in difference(key, mine.get(key), expected[key])]


def difference(key: str, mine: NDArray | None, expected: NDArray) -> list[str]:
    if mine is None:
        return [f"{key}: nothing in this test reproduces it"]
    if mine.shape != expected.shape:
        return [f"{key}: shape {mine.shape} against {expected.shape}"]
    error = np.abs(mine.astype(np.float64) - expected)
    if key == "ranks":
        allowed = np.zeros_like(error)
    elif key.startswith("grad_norm/"):
        allowed = GRADIENT_TOLERANCE * np.abs(expected)
    else:
        allowed = np.full_like(error, LOSS_TOLERANCE if key in LOSSES else FEATURE_TOLERANCE)
    # Not `error > allowed`: NaN must fail, too.
    return [] if (error <= allowed).all() else [f"{key}: off by up to {error.max():.3g}"]


def reproduce(model: EERCF, pixels: Tensor, ids: Tensor, k: int | None) -> dict[str, NDArray]:
    """Everything that the reference files hold, by their keys."""
    mask = torch.ones(pixels.shape[:2], dtype=torch.bool)
    text = model.encode_text(ids)
    frames, patches = model.encode_frames(pixels, mask, patches=True)
    query, videos = normalize(text, dim=-1), model.video_features(frames, patches, mask)
    found = {"text": text, "frames": frames, "patches": patches}
    found |= losses(model, query, videos)
    found["loss"].backward()
    with torch.no_grad():
        found |= {f"grad_norm/{name}": gradient.norm() for name, gradient in gradients(model).items()}
        found |= all_scores(model, query, videos)
        result = {key: value.detach().numpy() for key, value in found.items()}
        return result if k is None else result | search(model, query, videos, k)


def losses(model: EERCF, text: Tensor, videos: VideoFeatures) -> dict[str, Tensor]:
    mixing = model.mixing_for(videos.mask.shape[1])
    parts = eercf_loss(text, videos, model.video_projection, mixing, model.logit_scale(), LossConfig())
    vectors = (videos.video, *gated_vectors(text, videos))
    return {
        "weak_loss": parts.weak,
        "strong_loss": parts.strong,
        "loss": parts.total,
        "pearson": torch.stack([pearson_constraint(text, vector) for vector in vectors]),
    }


def gated_vectors(text: Tensor, videos: VideoFeatures) -> tuple[Tensor, Tensor]:
    return (
        tib_frame_vector(text, videos.frames, videos.temporal, videos.mask),
        tib_patch_vector(text, videos.patches, videos.mask),
    )


def gradients(model: EERCF) -> dict[str, Tensor]:
    """Gradients by the released names."""
    released = {ours: theirs for theirs, ours in RENAMED.items()}
    return {
        released.get(name, name.replace("temporal.blocks.", "transformerClip.resblocks.")): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def all_scores(model: EERCF, text: Tensor, videos: VideoFeatures) -> dict[str, Tensor]:
    """The scores as the reference has them, multiplied by s: all five in evaluation, the TIB ones in training, too."""
    scale, mixing = model.logit_scale(), model.mixing_for(videos.mask.shape[1])
    every = FusionWeights(**dict.fromkeys(FusionWeights.model_fields, 1.0))
    cosines = score_each(text, videos, model.video_projection, mixing, every)
    frame_vector, patch_vector = gated_vectors(text, videos)
    training = {"train_frame_strong": text @ frame_vector.T, "train_patch_strong": text @ patch_vector.T}
    return {
        key: scale * value for key, value in ({key: cosines[name] for key, name in SCORES.items()} | training).items()
    }


def search(model: EERCF, text: Tensor, videos: VideoFeatures, k: int) -> dict[str, NDArray]:
    """The two stages by the code that `mgvr retrieve` runs, on features kept in fp32."""
    scale = model.logit_scale().item()
    queries, items = project_text(text, model.video_projection).numpy(), videos.video.numpy()
    candidates = coarse.search(queries, items, k)
    reranker = Reranker(FusionWeights(), model.video_projection.detach(), model.frame_mixing.detach())
    rows = np.repeat(np.arange(len(text)), candidates.index.shape[1])
    scores = score_pairs(reranker, reranker.texts(text), fine_shard(as_table(videos)), rows, candidates.index.ravel())
    fused = scores["fused"].reshape(candidates.index.shape)
    matrix = scale * queries @ items.T
    np.put_along_axis(matrix, candidates.index, scale * fused + 100, axis=1)  # how the reference marks a recalled entry
    truth = np.arange(len(text))
    better, tied = two_stage.positions(two_stage.reranked(candidates, fused), candidates, queries, items, truth, truth)
    assert not tied.any()
    return {f"two_stage_top{k}": matrix, "ranks": better}


def as_table(videos: VideoFeatures) -> pa.Table:
    """The columns of a feature shard, in fp32 where a shard has fp16."""
    return pa.table(
        {
            name: pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(tensor.numpy()))
            for name, tensor in {
                "video": videos.video,
                "frames": videos.frames,
                "temporal": videos.temporal,
                "patches": videos.patches,
                "mask": videos.mask.byte(),
            }.items()
        }
    )
