"""The choice between ways to compute the same."""

from __future__ import annotations

import time

import pytest

from txgraph.backends.inductor import fastest as module
from txgraph.backends.inductor.fastest import fastest


def test_the_fastest_is_chosen() -> None:
    ways = {"slow": lambda: time.sleep(0.01), "fast": lambda: None}
    name, measured = fastest(ways, 0.05)
    assert name == "fast"
    assert measured.startswith("fast (1")
    assert measured.endswith("µs fast)")


def test_of_equals_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "best_seconds", lambda *ways, seconds: [2e-6] * len(ways))
    assert fastest({"b": lambda: 1, "a": lambda: 2}, 1.0) == ("b", "b (2 µs b, 2 µs a)")
