"""The choice between ways to compute the same."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from txgraph.backends.calls import fastest as module
from txgraph.backends.calls.fastest import fastest
from txgraph.cost import CoreClock


@pytest.mark.usefixtures("quiet")
def test_the_fastest_is_chosen() -> None:
    ways = {"slow": lambda: time.sleep(0.01), "fast": lambda: None}
    name, measured = fastest(ways, 0.05)
    assert name == "fast"
    assert measured.startswith("fast (1")
    assert measured.endswith("µs fast)")


@pytest.mark.usefixtures("quiet")
def test_of_equals_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "best_seconds", lambda *ways, **_: [2e-6] * len(ways))
    assert fastest({"b": lambda: 1, "a": lambda: 2}, 1.0) == ("b", "b (2 µs b, 2 µs a)")


@pytest.mark.usefixtures("quiet")
def test_one_way_beside_the_best_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"a": 3e-6, "b": 2e-6, "c": 4e-6}
    monkeypatch.setattr(module, "best_seconds", lambda *ways, **_: [*times.values()])
    ways = {name: lambda: None for name in times}
    assert fastest(ways, 1.0, compared="c") == ("b", "b (3 µs a, 2 µs b, 4 µs c; c is 0.50x as fast)")
    assert fastest(ways, 1.0, compared="b") == ("b", "b (3 µs a, 2 µs b, 4 µs c; b is 1.50x as fast)")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CoreClock, "share", lambda self: 0.0)


def test_a_busy_machine_is_named_and_its_times_are_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs: list[str] = []
    ways = {"a": lambda: runs.append("a"), "b": lambda: runs.append("b")}
    monkeypatch.setenv("TXGRAPH_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TXGRAPH_CACHE", "1")
    monkeypatch.setattr(CoreClock, "share", lambda self: 0.25)
    assert fastest(ways, 0.0, "some linear")[1].endswith(
        "b; measured on a busy machine, tasks waited during 25% of the time: not kept)"
    )
    runs.clear()
    monkeypatch.setattr(CoreClock, "share", lambda self: None)  # the system does not tell
    assert "busy" not in fastest(ways, 0.0, "some linear")[1]
    assert runs
    runs.clear()
    monkeypatch.setattr(CoreClock, "share", lambda self: 0.25)
    assert "busy" not in fastest(ways, 0.0, "some linear")[1]
    assert not runs


@pytest.mark.usefixtures("quiet")
def test_what_was_measured_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For the same text and the same ways; not where the cache is off, or nothing says what was measured."""
    runs: list[str] = []
    ways = {"a": lambda: runs.append("a"), "b": lambda: runs.append("b")}
    monkeypatch.setenv("TXGRAPH_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TXGRAPH_CACHE", "1")
    first = fastest(ways, 0.0, "some linear")
    assert runs
    runs.clear()
    assert fastest(ways, 0.0, "some linear") == first
    assert fastest({"b": ways["b"], "a": ways["a"]}, 0.0, "some linear")[0] == first[0]
    assert not runs
    for names, about in (("ab", "another linear"), ("a", "some linear"), ("ab", "")):
        fastest({name: ways[name] for name in names}, 0.0, about)
        assert {*runs} == {*names}
        runs.clear()
    monkeypatch.setenv("TXGRAPH_CACHE", "0")
    fastest(ways, 0.0, "some linear")
    assert runs
