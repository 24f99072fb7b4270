"""Ways to do one thing, timed in turn, so that a noisy moment hits all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, one for each round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def times_faster(slow: Sequence[float], fast: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(theirs / ours for theirs, ours in zip(slow, fast, strict=True))


def milliseconds(seconds: Sequence[float]) -> float:
    """Their median."""
    return statistics.median(seconds) * 1e3
