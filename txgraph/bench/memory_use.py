"""Memory of this process and of a model, in bytes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from torch import nn


def peak_rss() -> int:
    """The most memory this process ever held.

    On Linux from ``/proc``: ``ru_maxrss`` starts, in a new process, at what its parent held.
    """
    status = _linux_status("VmHWM")
    if status is not None:
        return status
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def current_rss() -> int | None:
    """What this process holds now; ``None`` where the system does not tell."""
    return _linux_status("VmRSS")


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers; tied ones once."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in [*model.parameters(), *model.buffers()]
    }
    return sum(storages.values())


def _linux_status(field: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None
