"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from txgraph.memory import give_back

SMALL_PIECES = """
from txgraph.bench.memory_use import current_rss
from txgraph.memory import give_back

pieces = [bytes(4000) for _ in range(50_000)]  # each too small for a mapping of its own
last = pieces[-1]  # what comes before it cannot be given back by the allocator itself
full = current_rss()
del pieces
freed = current_rss()
give_back()
print(full, freed, current_rss())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_was_freed_is_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", SMALL_PIECES], capture_output=True, text=True, check=True)
    full, freed, now = map(int, run.stdout.split())
    assert freed - now > 100 << 20
    assert full - now > 150 << 20


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the function nothing is done."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back()
