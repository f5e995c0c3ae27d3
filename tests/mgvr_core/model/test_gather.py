"""A step means the same on one worker and on two: the gradient of a batch does not depend on who held which rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from mgvr_core.model.gather import average_gradients, gather

ROOT = Path(__file__).resolve().parents[3]

STEP = """
import sys
import torch
from safetensors.torch import save_file
from torch import distributed as dist
from mgvr_core.model.gather import average_gradients, gather
from mgvr_core.model.losses import symmetric_cross_entropy

rank, workers, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
if workers > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=workers)
torch.manual_seed(0)
inputs, mask = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 3 > 0
model = torch.nn.ModuleDict({"tower": torch.nn.Linear(5, 4), "head": torch.nn.Linear(4, 4), "idle": torch.nn.Linear(1, 1)})
model.double()
share = len(inputs) // workers
rows = slice(rank * share, (rank + 1) * share)
# The tower runs on this worker's rows, the head (as W and U do) on the gathered ones.
features = gather(torch.nn.functional.normalize(model["tower"](inputs[rows]), dim=-1))
assert torch.equal(gather(mask[rows]), mask)
loss = symmetric_cross_entropy(10 * features @ model["head"](features).T)
loss.backward()
average_gradients(model)
found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
save_file(found | {"loss": loss.detach().reshape(1)}, f"{folder}/{workers}-{rank}.safetensors")
"""


def step(folder: Path, workers: int) -> list[dict[str, torch.Tensor]]:
    """What every worker holds after the backward pass."""
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    running = [
        subprocess.Popen([sys.executable, "-c", STEP, str(rank), str(workers), str(folder)], cwd=ROOT, env=environment)
        for rank in range(workers)
    ]
    assert [process.wait(timeout=120) for process in running] == [0] * workers
    return [load_file(folder / f"{workers}-{rank}.safetensors") for rank in range(workers)]


def test_two_workers_have_the_loss_and_the_gradients_of_one(tmp_path: Path) -> None:
    (alone,) = step(tmp_path, 1)
    assert alone.keys() == {"loss", "tower.weight", "tower.bias", "head.weight", "head.bias"}
    for worker in step(tmp_path, 2):
        assert worker.keys() == alone.keys()
        for name, expected in alone.items():
            torch.testing.assert_close(worker[name], expected, atol=1e-12, rtol=1e-10)


def test_a_worker_alone_gathers_nothing() -> None:
    local, model = torch.randn(3, 2), torch.nn.Linear(2, 1)
    assert gather(local) is local
    model(local).sum().backward()
    before = model.weight.grad.clone()
    average_gradients(model)
    assert torch.equal(model.weight.grad, before)
