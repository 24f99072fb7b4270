"""Memory of this process."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Give memory that was freed back to the system, where the C library keeps it for later and can be told (glibc).

    What capture, compilation and float64 needed for a moment would else stay with the process.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
