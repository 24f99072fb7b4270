"""A search that was ended goes on where it stood, in another process or at another call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import txgraph
from tests.lossy.models import Mixer, Table, batches, spent, timed_by_table  # noqa: F401  (a fixture)
from txgraph import Budget, candidates
from txgraph.lossy import search
from txgraph.lossy.spending import Spending

BUDGET = Budget(relative_error=0.02)
pytestmark = pytest.mark.usefixtures("timed_by_table", "cache")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TXGRAPH_CACHE", "1")
    monkeypatch.setenv("TXGRAPH_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(candidates, "BUSY", 2.0)  # this machine counts as quiet


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many errors and times of single rewrites are measured."""
    counts = {"errors": 0, "times": 0}
    squared_errors, times = candidates.squared_errors, Table.times

    def count(name: str, function: Any) -> Any:
        def counted(*args: Any) -> Any:
            for value in function(*args):
                counts[name] += 1
                yield value

        return counted

    monkeypatch.setattr(candidates, "squared_errors", count("errors", squared_errors))
    monkeypatch.setattr(Table, "times", count("times", times))
    return counts


def found(model: torch.nn.Module, data: list[torch.Tensor], budget: Budget = BUDGET, **options: Any) -> Spending:
    spending = spent(model, data, budget, **options).report.budget
    assert spending is not None
    return spending


def test_a_search_that_was_ended_goes_on(measured: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found(Mixer(), batches(), options={"cache": False})
    all_of_it = dict(measured)
    measured |= {"errors": 0, "times": 0}
    asked = iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr(search.Clock, "is_over", lambda clock, what, share=1.0: next(asked) > 24)
        first = found(Mixer(), batches())
    assert 0 < measured["errors"] < all_of_it["errors"]
    assert len(first.spent) < len(whole.spent)
    second = found(Mixer(), batches())
    assert second.spent == whole.spent
    assert second.held_out.relative_error == whole.held_out.relative_error
    assert measured["errors"] == all_of_it["errors"], "none is measured twice"
    assert any("that an earlier search found" in note for note in second.notes)
    times = measured["times"]
    third = found(Mixer(), batches())
    assert third.spent == whole.spent
    assert measured == {"errors": all_of_it["errors"], "times": times}


@pytest.mark.parametrize("other", ["weights", "data", "seed"])
def test_what_it_depends_on(other: str, measured: dict[str, int]) -> None:
    """Errors of another model, of other calls, or of calls divided otherwise, are not taken."""
    found(Mixer(), batches())
    before = measured["errors"]
    given = {"weights": (Mixer(1), batches()), "data": (Mixer(), batches(seed=1)), "seed": (Mixer(), batches())}
    spending = found(*given[other], Budget(relative_error=0.02, seed=3 if other == "seed" else 0))
    assert measured["errors"] == 2 * before
    assert not any("earlier search" in note for note in spending.notes)


def test_another_budget_takes_them(measured: dict[str, int]) -> None:
    found(Mixer(), batches())
    before = dict(measured)
    tighter = found(Mixer(), batches(), txgraph.Budget(relative_error=0.005))
    assert measured == before
    assert tighter.held_out.relative_error <= 0.005


def test_nothing_is_kept_where_the_cache_is_off(tmp_path: Path) -> None:
    found(Mixer(), batches(), options={"cache": False})
    assert list(tmp_path.iterdir()) == []


def test_what_a_busy_machine_says_is_for_nobody_else(measured: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "BUSY", -1.0)
    found(Mixer(), batches())
    before = dict(measured)
    found(Mixer(), batches())
    assert measured["errors"] == before["errors"]
    assert measured["times"] == 2 * before["times"]
