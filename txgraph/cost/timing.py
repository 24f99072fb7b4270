"""How long functions take here, measured fairly."""

from __future__ import annotations

import time
from collections.abc import Callable


def best_seconds(
    *functions: Callable[[], object], seconds: float, before: Callable[[], object] | None = None, rounds: int = 1
) -> list[float]:
    """The shortest run of each; they take turns for so many seconds, so that a noisy moment hits all of them.

    A first run of each is not counted.

    Args:
        rounds: that are run even if they take longer: on a busy machine few runs are not disturbed.
        before: is called before each run, untimed: it can bring the caches into the state that a run will find.
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
        if done >= rounds and time.perf_counter() > stop:
            return best
