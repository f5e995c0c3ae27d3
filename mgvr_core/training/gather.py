"""Features of all workers in one batch, with gradients to all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import FunctionCtx, once_differentiable


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, local: Tensor) -> Tensor:
        gathered = local.new_empty((dist.get_world_size() * len(local), *local.shape[1:]))
        dist.all_gather_into_tensor(gathered, local.contiguous())
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every worker's loss reads this worker's rows: its gradient is the sum over all of them, not the local slice.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        rows = len(total) // dist.get_world_size()
        return total[dist.get_rank() * rows : (dist.get_rank() + 1) * rows]


def gather(local: Tensor) -> Tensor:
    """Rows of all workers, in the order of their ranks: (b, …) -> (workers * b, …); the tensor itself where alone.

    With every worker computing the loss of the whole batch and `average_gradients` after the backward pass, a step is
    the same for any number of workers: the sum over workers that comes in here leaves with the average there.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return local
    if local.dtype == torch.bool:
        return gather(local.to(torch.uint8)).bool()
    gathered: Tensor = _Gather.apply(local)
    return gathered


def average_gradients(model: torch.nn.Module) -> None:
    """Replace every gradient by its mean over the workers."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not gradients:  # a batch of broken videos: no worker has any
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])  # one message instead of hundreds
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    begin = 0
    for gradient in gradients:
        gradient.copy_(flat[begin : begin + gradient.numel()].view_as(gradient))
        begin += gradient.numel()
