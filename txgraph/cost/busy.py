"""Whether the machine had other work while something was measured."""

from __future__ import annotations

import re
import time
from pathlib import Path

BUSY = 0.1  # share of the time in which tasks waited for a core, from which on times mean little


class CoreClock:
    """Started when it is made, it tells in what share of the time since some task of the machine waited for a core.

    Linux's pressure stall information. Threads that wait for each other by spinning, as OpenMP's do, become slower by a
    factor of ten when one other process takes one of their cores.
    """

    def __init__(self) -> None:
        self._begun, self._waited = time.perf_counter(), _seconds_waited()

    def share(self) -> float | None:
        """Between 0 and 1; ``None`` where the system does not tell."""
        now, passed = _seconds_waited(), time.perf_counter() - self._begun
        return None if now is None or self._waited is None else (now - self._waited) / passed


def _seconds_waited() -> float | None:
    try:
        text = Path("/proc/pressure/cpu").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^some .*total=(\d+)", text, re.MULTILINE)
    return int(found[1]) * 1e-6 if found else None
