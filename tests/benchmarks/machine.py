"""How fast this machine is, for ratios to be taken of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def best_of(call: Callable[[], object], rounds: int = 5) -> float:
    """Seconds of the fastest call: whatever else the machine does only ever adds."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def machine_rate() -> float:
    """Multiply-adds a second of a large fp32 matrix product."""
    a, b = torch.randn(4096, 512), torch.randn(8192, 512)
    return 4096 * 8192 * 512 / best_of(lambda: a @ b.T)
