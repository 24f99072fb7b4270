"""Which of several ways to compute the same is the fastest on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from txgraph.cost import best_seconds


def fastest(ways: Mapping[str, Callable[[], object]], seconds: float) -> tuple[str, str]:
    """The name of the fastest way, of equal ones the first; and what was measured, for the report.

    Args:
        seconds: for all of them together.
    """
    with torch.no_grad():
        best = dict(zip(ways, best_seconds(*ways.values(), seconds=seconds), strict=True))
    name = min(best, key=best.__getitem__)
    return name, f"{name} ({', '.join(f'{each * 1e6:.0f} µs {way}' for way, each in best.items())})"
