"""The middle stage of the encode job: decoded rows to features, by the model on one device."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgvr_core.features.schema import FeatureShape
from mgvr_core.identity import Fingerprint
from mgvr_core.model.int8 import quantise
from mgvr_core.model.load import ModelConfig, load_model
from pipelines.decoding import Batch, fault
from pipelines.memory import peak_memory
from pipelines.models import MODEL_PARTS, ComputeConfig, model_fingerprint, preprocessing


class Encode:
    """Decoded rows -> feature rows, by the model on one device."""

    def __init__(
        self, model: ModelConfig, expected: Fingerprint, compute: ComputeConfig, shape: FeatureShape, counter: Any
    ) -> None:
        self._device, self._compute = compute.torch_device(), compute
        torch.set_num_threads(compute.thread_count(compute.workers))
        self._model = load_model(model).model.to(self._device)
        found = expected.differences(model_fingerprint(self._model), names=MODEL_PARTS)
        if found:
            raise RuntimeError(f"this node loaded another model than the driver: {'; '.join(found)}")
        if compute.final_precision() == "int8":
            self._model = quantise(self._model)
        self._preprocess = preprocessing(self._model.spec)
        self._shape = shape
        self._counter = counter

    def __call__(self, batch: Batch) -> Batch:
        began = time.perf_counter()
        pixels, mask = batch.pop("pixels"), batch["mask"].astype(bool)
        good = batch["fault"] == ""
        features = self._features(pixels[good], mask[good]) if good.any() else {}
        for name, shape in self._columns().items():
            values = np.zeros((len(good), *shape), np.float32 if name == "frame_norms" else np.float16)
            if name in features:
                values[good] = features[name]
            batch[name] = values
        # A model can overflow on one video: it costs itself alone.
        finite = np.ones(len(good), bool)
        for name in self._columns():
            finite &= np.isfinite(batch[name].reshape(len(good), -1)).all(axis=1)
        for row in np.flatnonzero(good & ~finite):
            faults = batch["fault"].astype(object)
            faults[row] = fault("encode", "not_finite", f"{batch['uri'][row]}: the model gave NaN or infinity")
            batch["fault"] = faults
        self._counter.add.remote("encoded", int((good & finite).sum()))
        self._counter.measure.remote({"encode_s": time.perf_counter() - began}, *peak_memory())
        return batch

    def _features(self, pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> dict[str, NDArray[np.floating]]:
        valid = torch.from_numpy(mask).to(self._device)
        images = self._preprocess.normalise(torch.from_numpy(pixels).to(self._device))  # (B, F, 3, S, S)
        with torch.inference_mode(), self._compute.autocast():
            frames, patches = self._model.encode_frames(images, valid, patches=self._shape.patches > 0)
            made = self._model.video_features(frames, patches, valid)
            norms = torch.linalg.vector_norm(frames, dim=-1, dtype=torch.float32)  # (B, F)
        columns = {"video": made.video, "frames": made.frames, "temporal": made.temporal}
        if made.patches is not None:
            columns["patches"] = made.patches
        features = {name: values.half().cpu().numpy() for name, values in columns.items()}
        return features | {"frame_norms": norms.cpu().numpy()}

    def _columns(self) -> dict[str, tuple[int, ...]]:
        F, D, P = self._shape.frames, self._shape.dim, self._shape.patches
        columns: dict[str, tuple[int, ...]] = {"video": (D,), "frames": (F, D), "frame_norms": (F,), "temporal": (F, D)}
        return columns | {"patches": (F, P, D)} if P else columns
