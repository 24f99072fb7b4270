"""Functions take turns, and the best run of each counts. No times are asserted."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from tests.small import graph_of
from txgraph.cost import best_seconds, random_like


def test_functions_take_turns() -> None:
    calls: list[int] = []

    def count(at: int) -> Callable[[], None]:
        return lambda: calls.append(at)

    best = best_seconds(count(0), count(1), seconds=0.01)
    assert calls[:4] == [0, 1, 0, 1]
    assert calls.count(0) == calls.count(1) > 1
    assert all(0 < seconds < 0.1 for seconds in best)


def test_the_best_run_counts_and_the_first_does_not() -> None:
    naps = iter([0.0, 0.05, 0.001, *[0.05] * 1000])
    (best,) = best_seconds(lambda: time.sleep(next(naps)), seconds=0.2)
    assert 0.001 <= best < 0.05


def test_each_is_run_at_least_once() -> None:
    (best,) = best_seconds(lambda: time.sleep(0.002), seconds=0.0)
    assert 0.002 <= best < 1


def test_what_comes_before_a_run_is_not_timed() -> None:
    done: list[str] = []

    def prepare() -> None:
        time.sleep(0.02)
        done.append("before")

    best = best_seconds(lambda: done.append("a"), lambda: done.append("b"), seconds=0.0, before=prepare)
    assert max(best) < 0.02
    assert done == ["a", "b", "before", "a", "before", "b"]


def test_rounds_that_are_run_in_any_case() -> None:
    done: list[str] = []
    best_seconds(lambda: done.append("a"), lambda: done.append("b"), seconds=0.0, rounds=3)
    assert done == ["a", "b"] * 4  # the first runs are not counted


@pytest.mark.parametrize(("clear", "rounds"), [(1.5, 2), (float("inf"), 5)], ids=["is enough", "is not asked for"])
def test_a_clear_lead(clear: float, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three, one takes half of the others' time."""
    now = 0.0

    def runs(seconds: float) -> Callable[[], None]:
        def run() -> None:
            nonlocal now
            now += seconds
            done.append(seconds)

        return run

    done: list[float] = []
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    best = best_seconds(runs(2.0), runs(1.0), runs(2.0), seconds=24.0, rounds=2, clear=clear)
    assert best == [2.0, 1.0, 2.0]
    assert len(done) == 3 * (1 + rounds)  # the first runs are not counted


def test_no_lead_of_near_ones() -> None:
    """Nor of one alone: it has all the time."""
    done: list[str] = []
    best_seconds(lambda: done.append("a"), seconds=0.01, clear=1.0)
    assert len(done) > 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_inputs_of_any_type_and_layout(dtype: torch.dtype) -> None:
    def views(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x.transpose(0, 1), x[:, :1].expand(2, 3), x[::2]

    graph = graph_of(views, torch.ones(2, 3).to(dtype))
    for node in graph.calls():
        made = random_like(node.meta["val"])
        assert (made.shape, made.stride(), made.dtype) == (
            node.meta["val"].shape,
            node.meta["val"].stride(),
            node.meta["val"].dtype,
        )
        if not dtype.is_floating_point:
            assert bool((made == (dtype is torch.bool)).all()), "indices of zero fit any table"
