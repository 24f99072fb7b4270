"""Measure this machine, in a few seconds."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial

import torch

from txgraph.cost.hardware import Hardware
from txgraph.cost.timing import best_seconds

_SIZE = 1024  # of a square matrix: 2 GFLOP a product
_COPIED = 2**27  # bytes: more than most caches hold
_CALLS = 1000  # of the smallest operator
_SECONDS = 0.5  # spent on each of the four measurements


def calibrate(threads: int | None = None) -> Hardware:
    """The CPU of this machine as it is now: best of several runs; takes about two seconds.

    Args:
        threads: how many threads torch uses meanwhile; by default as many as it does. Their number is restored.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.inference_mode():
            return _measure(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)


def _measure(threads: int) -> Hardware:
    peaks = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, _SIZE, _SIZE).to(dtype)
        peaks[dtype] = 2 * _SIZE**3 / _seconds(partial(torch.mm, a, b))
    source, copy = torch.zeros(2, _COPIED, dtype=torch.uint8)
    bandwidth = 2 * _COPIED / _seconds(lambda: copy.copy_(source))
    small = torch.zeros(1)
    launch_seconds = _seconds(lambda: [torch.add(small, small) for _ in range(_CALLS)]) / _CALLS
    return Hardware(
        name="measured",
        flops=peaks,
        bandwidth=bandwidth,
        launch_seconds=launch_seconds,
        source=f"Measured by calibrate() on {platform.machine()}, threads: {threads}, torch {torch.__version__}: "
        f"products of {_SIZE} x {_SIZE} matrices, a copy of {_COPIED // 2**20} MiB (read and written), "
        f"eager additions of one element.",
        cores=threads,
    )


def _seconds(function: Callable[[], object]) -> float:
    return best_seconds(function, seconds=_SECONDS)[0]
