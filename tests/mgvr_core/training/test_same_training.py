"""Twenty steps of batch 32: on one worker, on two of 16, and in chunks. This file run as a program is one of two."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from mgvr_core.model import checkpoint
from mgvr_core.model.eercf import EERCF
from mgvr_core.training.losses import LossConfig
from mgvr_core.training.optimiser import OptimiserConfig, build_optimiser, set_rates
from mgvr_core.training.step import MemoryConfig, Rows, backward

BATCH, STEPS, F = 32, 20, 3
WITHIN_GRADIENT, WITHIN_LOSS = 1e-5, 1e-4
OPTIMISER = OptimiserConfig(lr=1e-3, clip_lr_factor=1.0)
EVERY_TERM = LossConfig(tib_patch=0.5, pearson=0.01, pearson_tib_patch=1.0)


@dataclass
class Course:
    """What a training was: the gradients of its first step, and the losses of all."""

    first: dict[str, Tensor]
    losses: list[float]


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Ids, pixels and masks of every step, the same for everybody."""
    generator = torch.Generator().manual_seed(5)
    words = torch.randint(1, 18, (STEPS * BATCH, 3), generator=generator)
    ids = torch.zeros(STEPS * BATCH, 8, dtype=torch.int64)
    ids[:, 0], ids[:, 1:4], ids[:, 4] = 18, words, 19
    pixels = torch.randn(STEPS * BATCH, F, 3, 16, 16, generator=generator)
    lengths = torch.randint(1, F + 1, (STEPS * BATCH, 1), generator=generator)
    return ids, pixels, torch.arange(F) < lengths


def train(model: EERCF, memory: MemoryConfig, rank: int = 0, workers: int = 1) -> Course:
    torch.set_num_threads(1)
    ids, pixels, mask = data()
    optimiser = build_optimiser(model, OPTIMISER)
    share = BATCH // workers
    first: dict[str, Tensor] = {}
    losses = []
    for step in range(STEPS):
        begin = step * BATCH + rank * share

        def encode(rows: slice, begin: int = begin) -> Rows:
            mine = slice(begin + rows.start, begin + rows.stop)
            return Rows(model.encode_text(ids[mine]), model.encode_videos(pixels[mine], mask[mine], patches=True))

        set_rates(optimiser, OPTIMISER, step, STEPS)
        optimiser.zero_grad()
        loss, pairs = backward(model, encode, share, model.frame_mixing, EVERY_TERM, memory)
        assert pairs == BATCH
        if not step:
            first = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMISER.max_grad_norm)
        optimiser.step()
        losses.append(loss.total.item())
    return Course(first, losses)


def work(folder: Path, rank: int, chunk: int | None) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    course = train(checkpoint.load(folder / "start").model, MemoryConfig(chunk=chunk), rank, 2)
    torch.save({"first": course.first, "losses": course.losses}, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to start from."""
    from small_models import architecture

    torch.manual_seed(0)
    settings: dict[str, Any] = {"frames": F, "temporal_layers": 2, "temporal_positions": 8, "text_length": 8}
    folder = tmp_path_factory.mktemp("same") / "start"
    checkpoint.save(folder, EERCF(checkpoint.ModelSpec(architecture=architecture(), **settings)), {})
    return folder


@pytest.fixture(scope="module")
def alone(start: Path) -> Course:
    return train(checkpoint.load(start).model, MemoryConfig())


def require_same(found: Course, expected: Course) -> None:
    assert found.first.keys() == expected.first.keys()
    difference = sum((found.first[name] - part).square().sum() for name, part in expected.first.items())
    norm = sum(part.square().sum() for part in expected.first.values())
    assert (difference / norm).sqrt() < WITHIN_GRADIENT
    assert found.losses == pytest.approx(expected.losses, abs=WITHIN_LOSS)


def test_it_learns(alone: Course) -> None:
    """Else all of them could be the same by standing still."""
    assert len(alone.losses) == STEPS
    assert max(alone.losses) - min(alone.losses) > 100 * WITHIN_LOSS


def test_chunks_of_eight_train_as_the_whole_batch(start: Path, alone: Course) -> None:
    require_same(train(checkpoint.load(start).model, MemoryConfig(chunk=8)), alone)


@pytest.mark.parametrize("chunk", [None, 8])
def test_two_workers_of_sixteen_train_as_one_of_32(
    start: Path, alone: Course, tmp_path: Path, chunk: int | None
) -> None:
    (tmp_path / "start").symlink_to(start)
    workers = [
        subprocess.Popen([sys.executable, __file__, json.dumps([str(tmp_path), rank, chunk])], cwd=Path.cwd())
        for rank in range(2)
    ]
    try:
        assert [worker.wait(240) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    both = [Course(**torch.load(tmp_path / f"{rank}.pt")) for rank in range(2)]
    for course in both:
        require_same(course, alone)
    # Bit for bit with each other: two workers that drift apart are two models.
    assert both[0].losses == both[1].losses
    assert all(torch.equal(part, both[1].first[name]) for name, part in both[0].first.items())


if __name__ == "__main__":
    place, number, size = json.loads(sys.argv[1])
    work(Path(place), number, size)
