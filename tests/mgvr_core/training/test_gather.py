"""A training step on two workers against the same step on one: this file run as a program is one of the two."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn.functional import normalize

from mgvr_core.model import checkpoint
from mgvr_core.model.eercf import EERCF
from mgvr_core.scoring.features import VideoFeatures
from mgvr_core.training import gather as gathering
from mgvr_core.training.gather import average_gradients, gather
from mgvr_core.training.losses import LossConfig, eercf_loss

PAIRS, WORKERS = 6, 2
Gradients = dict[str, Tensor]


def step(model: EERCF, ids: Tensor, pixels: Tensor, mask: Tensor) -> tuple[float, Gradients]:
    """Loss and gradients of a batch, of which this worker has its own rows."""
    videos = model.encode_videos(pixels, mask, patches=True)
    fields = ("video", "frames", "temporal", "patches", "mask")
    losses = eercf_loss(
        normalize(gather(model.encode_text(ids)), dim=-1),
        VideoFeatures(**{name: gather(getattr(videos, name)) for name in fields}),
        model.video_projection,
        model.frame_mixing,
        model.logit_scale(),
        LossConfig(tib_patch=0.5, pearson=0.1, pearson_tib_patch=1.0),  # every term
    )
    model.zero_grad()
    losses.total.backward()
    average_gradients(model)
    gradients = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    return losses.total.item(), gradients


def keep_the_local_slice(ctx: Any, gradient: Tensor) -> Tensor:
    """The backward pass of the released code."""
    rows = len(gradient) // dist.get_world_size()
    return gradient[dist.get_rank() * rows : (dist.get_rank() + 1) * rows]


def work(folder: Path, rank: int) -> None:
    """One worker: its rows of the batch, by the true backward pass and by the released one."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORKERS)
    model = checkpoint.load(folder).model.train()
    share = PAIRS // WORKERS
    batch = [part[rank * share : (rank + 1) * share] for part in torch.load(folder / "batch.pt")]
    found = {
        "rank of each row": gather(torch.full((2, 1), rank)),
        "mask": gather(torch.tensor([rank == 1])),
        "true": step(model, *batch),
    }
    gathering._Gather.backward = staticmethod(keep_the_local_slice)
    found["local slice"] = step(model, *batch)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture
def batch(captions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (6, 8), pixels (6, 3, 3, 16, 16) and a mask with padding on one worker only."""
    mask = torch.ones(PAIRS, 3, dtype=torch.bool)
    mask[1, 2] = mask[2, 1:] = False
    return torch.cat([captions, captions.flip(0)]), torch.randn(PAIRS, 3, 3, 16, 16), mask


@pytest.fixture
def alone(tiny_model, batch) -> tuple[EERCF, float, Gradients]:
    model = tiny_model().train()
    return model, *step(model, *batch)


@pytest.fixture
def both(alone, batch, tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """What the two workers found."""
    checkpoint.save(tmp_path, alone[0], {})
    torch.save(batch, tmp_path / "batch.pt")
    workers = [
        subprocess.Popen([sys.executable, __file__, json.dumps([str(tmp_path), rank])], cwd=Path.cwd())
        for rank in range(WORKERS)
    ]
    try:
        assert [worker.wait(120) for worker in workers] == [0, 0]
        yield [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORKERS)]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def off(found: Gradients, expected: Gradients) -> float:
    """Norm of the difference, as a part of the norm of the whole gradient."""
    assert found.keys() == expected.keys()
    difference = sum((found[name] - expected[name]).square().sum() for name in expected)
    return float((difference / sum(part.square().sum() for part in expected.values())).sqrt())


def test_two_workers_take_the_step_of_one(alone, both) -> None:
    """The same loss and gradient, on both; with the released backward pass the test would not hold."""
    _, loss, gradients = alone
    for found in both:
        assert found["rank of each row"].flatten().tolist() == [0, 0, 1, 1]
        assert found["mask"].tolist() == [False, True]
        assert found["mask"].dtype == torch.bool
        assert found["true"][0] == pytest.approx(loss, abs=1e-5)
        assert off(found["true"][1], gradients) < 1e-5
        assert found["local slice"][0] == pytest.approx(loss, abs=1e-5)  # a loss alone can't tell them apart
        assert off(found["local slice"][1], gradients) > 0.1
    assert off(both[0]["true"][1], both[1]["true"][1]) == 0


def test_alone_nothing_is_gathered(tiny_model, batch) -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather(rows) is rows
    model = tiny_model()
    model.encode_text(batch[0]).sum().backward()
    before = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    average_gradients(model)
    assert all(torch.equal(dict(model.named_parameters())[name].grad, part) for name, part in before.items())


if __name__ == "__main__":
    place, number = json.loads(sys.argv[1])
    work(Path(place), number)
