"""How long functions take here, measured fairly, and on what."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from txgraph.cost.adapter import size_hint


def best_seconds(
    *functions: Callable[[], object],
    seconds: float,
    before: Callable[[], object] | None = None,
    rounds: int = 1,
    clear: float = math.inf,
) -> list[float]:
    """The shortest run of each; they take turns for so many seconds, so that a noisy moment hits all of them.

    A first run of each is not counted.

    Args:
        rounds: that are run even if they take longer: on a busy machine few runs are not disturbed.
        before: is called before each run, untimed: it can bring the caches into the state that a run will find.
        clear: if all others take so many times what one takes, no more rounds than these are run.
    """
    best = [float("inf")] * len(functions)
    for function in functions:
        function()
    stop = time.perf_counter() + seconds
    done = 0
    while True:
        for at, function in enumerate(functions):
            if before is not None:
                before()
            started = time.perf_counter()
            function()
            best[at] = min(best[at], time.perf_counter() - started)
        done += 1
        if done >= rounds and (time.perf_counter() > stop or _is_clear(best, clear)):
            return best


def _is_clear(best: list[float], clear: float) -> bool:
    first, *others = sorted(best)
    return bool(others) and others[0] > clear * first


def random_like(value: torch.Tensor) -> torch.Tensor:
    """Random numbers with the type and the layout of ``value``, which may be fake.

    Sizes that vary are those of the example. Booleans are true, and integers zero: they may be indices.
    """
    sizes, strides = ([int(size_hint(s)) for s in each] for each in (value.shape, value.stride()))
    tensor = torch.empty_strided(sizes, strides, dtype=value.dtype, device=value.device)
    memory = torch.empty(0, dtype=value.dtype, device=value.device).set_(tensor.untyped_storage())
    if value.dtype.is_floating_point:
        memory.normal_()
    else:
        memory.fill_(value.dtype is torch.bool)
    return tensor
