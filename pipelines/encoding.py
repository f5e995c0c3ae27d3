"""The middle stage of the encode job: decoded rows to features, by the model on one device."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mgvr_core.features.codec import Codec
from mgvr_core.features.layout import Tensors, stored_tensors
from mgvr_core.features.schema import FeatureShape
from mgvr_core.identity import Fingerprint
from mgvr_core.model.int8 import quantise
from mgvr_core.model.load import ModelConfig, load_model
from pipelines.decoding import Batch, fault
from pipelines.memory import peak_memory
from pipelines.models import MODEL_PARTS, ComputeConfig, model_fingerprint, preprocessing


class Encode:
    """Decoded rows -> feature rows, coded where there is a codec, by the model on one device."""

    def __init__(
        self,
        model: ModelConfig,
        expected: Fingerprint,
        compute: ComputeConfig,
        shape: FeatureShape,
        counter: Any,
        codec: Codec | None = None,
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
        self._codec = None if codec is None else codec.to(self._device)
        self._counter = counter

    def __call__(self, batch: Batch) -> Batch:
        began = time.perf_counter()
        pixels, mask = batch.pop("pixels"), batch["mask"].astype(bool)
        good = batch["fault"] == ""
        features = self._features(pixels[good], mask[good]) if good.any() else {}
        # A model can overflow on one video: it costs itself alone.
        finite = good.copy()
        for values in features.values():
            finite[good] &= torch.isfinite(values.flatten(1)).all(dim=1).cpu().numpy()
        kept = torch.from_numpy(finite[good]).to(self._device)
        stored = self._stored({name: values[kept] for name, values in features.items()}, mask[finite])
        for name, (dtype, shape) in self._columns().items():
            batch[name] = np.zeros((len(good), *shape), dtype)
            if name in stored:
                batch[name][finite] = stored[name]
        for row in np.flatnonzero(good & ~finite):
            faults = batch["fault"].astype(object)
            faults[row] = fault("encode", "not_finite", f"{batch['uri'][row]}: the model gave NaN or infinity")
            batch["fault"] = faults
        self._counter.add.remote("encoded", int(finite.sum()))
        self._counter.measure.remote({"encode_s": time.perf_counter() - began}, *peak_memory())
        return batch

    def _features(self, pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> dict[str, Tensor]:
        """Clips (B, F, S, S, 3) and their frames (B, F) -> features on the model's device, fp16 but for the lengths."""
        valid = torch.from_numpy(mask).to(self._device)
        images = self._preprocess.normalise(torch.from_numpy(pixels).to(self._device))  # (B, F, 3, S, S)
        with torch.inference_mode(), self._compute.autocast():
            frames, patches = self._model.encode_frames(images, valid, patches=self._shape.patches > 0)
            made = self._model.video_features(frames, patches, valid)
            norms = torch.linalg.vector_norm(frames, dim=-1, dtype=torch.float32)  # (B, F)
        columns = {"video": made.video, "frames": made.frames, "temporal": made.temporal}
        if made.patches is not None:
            columns["patches"] = made.patches
        return {**{name: values.half() for name, values in columns.items()}, "frame_norms": norms}

    def _stored(self, features: dict[str, Tensor], mask: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """Features as they are stored, of videos that all have them; nothing of no video."""
        if not len(mask):
            return {}
        if self._codec is None:
            return {name: values.cpu().numpy() for name, values in features.items()}
        norms, patches = features.pop("frame_norms"), features.pop("patches", None)
        valid = torch.from_numpy(mask).to(self._device)
        with torch.inference_mode():
            coded = self._codec.columns(**features, patches=patches, mask=valid)
        return {**coded, "frame_norms": norms.cpu().numpy()}

    def _columns(self) -> Tensors:
        F, D, P = self._shape.frames, self._shape.dim, self._shape.patches
        norms: Tensors = {"frame_norms": ("float32", (F,))}
        if self._codec is not None:
            config = self._codec.config
            return norms | stored_tensors(config.part(D, None), F, D, config.tokens or P)
        sizes = {"video": (D,), "frames": (F, D), "temporal": (F, D), **({"patches": (F, P, D)} if P else {})}
        return norms | {name: ("float16", size) for name, size in sizes.items()}
