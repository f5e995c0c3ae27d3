"""The method written out a second time: one pair at a time, in its slowest form, from the stored features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mgvr_core.features.schema import tensor_column
from mgvr_core.features.snapshot import Snapshot
from mgvr_core.model import checkpoint
from mgvr_core.model.load import ModelConfig
from mgvr_core.model.tokenizer import build_tokenizer

RELEASED = {"video": 0.5, "frame_weak": 0.8, "tib_frame": 0.2, "patch_weak": 0.2}


Query = dict[str, Any]


def softmax(x: np.ndarray, temperature: float) -> np.ndarray:
    weights = np.exp((x - x.max()) / temperature)
    return weights / weights.sum()


@dataclass
class Plain:
    """The method in its slowest form: docs/method.md, sections 2 and 4, in double precision."""

    videos: dict[str, dict[str, np.ndarray]]
    W: np.ndarray
    U: np.ndarray
    encode: Callable[[str], np.ndarray]

    def coarse(self, text: str, video: str) -> float:
        return float(self.encode(text) @ self.W @ self.videos[video]["video"])

    def fused(self, text: str, video: str, weights: dict[str, float]) -> float:
        t, row = self.encode(text), self.videos[video]
        n = int(row["mask"].sum())
        frames, temporal = row["frames"][:n], row["temporal"][:n]
        x = frames @ t
        attention = np.zeros(len(row["mask"]))
        attention[:n] = softmax(x, 0.01)
        gated = softmax(x, 0.1) @ temporal
        scores = {
            "video": self.coarse(text, video),
            "frame_weak": (attention @ self.U)[:n] @ x,
            "tib_frame": t @ gated / np.linalg.norm(gated),
        }
        if "patch_weak" in weights:
            y = row["patches"][:n].reshape(-1, len(t)) @ t
            scores["patch_weak"] = softmax(y, 0.01) @ y
        return float(sum(weight * scores[name] for name, weight in weights.items()))

    def order(self, text: str, k: int, weights: dict[str, float] = RELEASED) -> list[str]:
        """All videos: the k best by the coarse score in the order of the fused one, then the rest."""
        first = sorted(self.videos, key=lambda video: (-self.coarse(text, video), video))
        best = sorted(first[:k], key=lambda video: (-self.fused(text, video, weights), video))
        return best + first[k:]


def plain(snapshot: Snapshot, model: ModelConfig) -> Plain:
    loaded = checkpoint.load(Path(model.checkpoint)).model
    tokenizer = build_tokenizer(loaded.spec.tokenizer)
    texts: dict[str, np.ndarray] = {}

    def encode(text: str) -> np.ndarray:
        if text not in texts:
            with torch.inference_mode():
                vector = loaded.encode_text(tokenizer([text], loaded.spec.text_length).ids)[0].double().numpy()
            texts[text] = vector / np.linalg.norm(vector)
        return texts[text]

    names = ["video", "frames", "temporal", "patches", "mask"]
    videos: dict[str, dict[str, np.ndarray]] = {}
    for table in snapshot.tables():
        columns = {name: tensor_column(table, name).astype(float) for name in names if name in table.column_names}
        for row, video in enumerate(table["id"].to_pylist()):
            videos[video] = {name: values[row] for name, values in columns.items()}
    W, U = (part.detach().double().numpy() for part in (loaded.video_projection, loaded.frame_mixing))
    return Plain(videos, W, U, encode)


def best_rank(order: list[str], relevant: list[str]) -> float:
    """Of the best right video among the wrong ones; a query without any right video in the pool is a miss."""
    places = [place for place, video in enumerate(order) if video in relevant]
    return 1 + places[0] if places else len(order) + 1


def figures(ranks: list[float], answerable: list[bool]) -> dict[str, float]:
    reached = np.array(ranks)
    recalls = {f"R@{k}": float(np.mean((reached <= k) & answerable)) for k in (1, 5, 10)}
    return {
        **recalls,
        "MdR": float(np.median(reached)),
        "MnR": float(reached.mean()),
        "MRR": float(np.mean(np.where(answerable, 1 / reached, 0))),
    }


def group_ranks(
    method: Plain, queries: list[Query], k: int, weights: dict[str, float] | None
) -> tuple[list[float], list[bool]]:
    """Videos ask, groups of captions with the same right answers are ranked, each by its best caption.

    Returns each video's rank, ties at their mean, and whether a right caption is among its k candidates.
    `weights` None: stage 1 alone.
    """
    labelled = [query for query in queries if query["relevant"]]
    groups = sorted({frozenset(query["relevant"]) for query in labelled}, key=sorted)
    texts = sorted({query["text"] for query in labelled})
    asked = [video for video in sorted(method.videos) if any(video in group for group in groups)]
    ranks, recalled = [], []
    for video in asked:
        first = sorted(texts, key=lambda text: (-method.coarse(text, video), text))
        final = list(first)
        if weights is not None:
            final[:k] = sorted(first[:k], key=lambda text: (-method.fused(text, video, weights), text))
        place = {
            group: min(final.index(query["text"]) for query in labelled if frozenset(query["relevant"]) == group)
            for group in groups
        }
        best = min(place[group] for group in groups if video in group)
        wrong = [place[group] for group in groups if video not in group]
        ranks.append(1 + sum(at < best for at in wrong) + sum(at == best for at in wrong) / 2)
        recalled.append(any(query["text"] in first[:k] and video in query["relevant"] for query in labelled))
    return ranks, recalled
