"""Which of several ways to compute the same is the fastest on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from txgraph.cache import Measurements, is_on
from txgraph.cost import BUSY, CoreClock, best_seconds

ROUNDS = 5  # at least
CLEAR = 1.25  # times the fastest: no more rounds than these change which one that is


def fastest(
    ways: Mapping[str, Callable[[], object]],
    seconds: float,
    about: str = "",
    before: Callable[[], object] | None = None,
    compared: str = "",
) -> tuple[str, str]:
    """The name of the fastest way, of equal ones the first; and what was measured, for the report.

    Args:
        seconds: for all of them together; less where one is :data:`CLEAR` times as fast as the others.
        about: all that the times depend on, beside the machine: what was measured for an equal text is not measured
            again, unless the machine was busy then; empty: always measured.
        before: is called before each run, untimed.
        compared: the report says how fast this way is beside the fastest of the others.
    """
    busy = ""
    kept = Measurements() if about and is_on() else None
    best = kept.find(about) if kept else {}
    if best.keys() != ways.keys():
        clock = CoreClock()
        with torch.no_grad():
            times = best_seconds(*ways.values(), seconds=seconds, before=before, rounds=ROUNDS, clear=CLEAR)
        best = dict(zip(ways, times, strict=True))
        share = clock.share() or 0.0
        if share > BUSY:  # others must not live with what was disturbed here
            busy = f"; measured on a busy machine, tasks waited during {share:.0%} of the time: not kept"
        elif kept:
            kept.keep(about, best)
    name = min(ways, key=best.__getitem__)
    beside = ""
    if compared:
        beside = f"; {compared} is {min(best[way] for way in ways if way != compared) / best[compared]:.2f}x as fast"
    return name, f"{name} ({', '.join(f'{best[way] * 1e6:.0f} µs {way}' for way in ways)}{beside}{busy})"
