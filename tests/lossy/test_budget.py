"""Budgets: what they refuse, and what share of them outputs use."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch

from txgraph import Budget
from txgraph.lossy import Distance
from txgraph.lossy.distance import student


def distance(value: torch.Tensor, truth: torch.Tensor) -> Distance:
    return Distance().plus([value], [truth])


@pytest.mark.parametrize(
    ("limits", "error", "message"),
    [
        ({}, ValueError, "no limit is given"),
        ({"relative_error": 0}, ValueError, "relative_error=0, expected a finite number, more than 0"),
        ({"relative_error": -0.1}, ValueError, "more than 0"),
        ({"relative_error": math.inf}, ValueError, "finite"),
        ({"relative_error": math.nan}, ValueError, "finite"),
        ({"relative_error": "0.1"}, TypeError, "relative_error must be a number, got str"),
        ({"relative_error": True}, TypeError, "must be a number, got bool"),
        ({"sqnr_db": 0}, ValueError, "sqnr_db=0"),
        ({"top1_agreement": 1.5}, ValueError, "is a share, expected at most 1"),
        ({"metric": len}, ValueError, "metric and max_drop belong together"),
        ({"max_drop": 0.1}, ValueError, "metric and max_drop belong together"),
        ({"metric": 3, "max_drop": 0.1}, TypeError, "metric must be a function of a model, got int"),
        ({"metric": len, "max_drop": -0.1}, ValueError, "0 or more"),
        ({"relative_error": 0.1, "seconds": 0}, ValueError, "seconds=0"),
    ],
)
def test_refused(limits: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Budget(**limits)


def test_shares() -> None:
    truth = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    off = distance(truth + torch.tensor([0.0, 0.5]), truth)  # 10 %, 20 dB
    assert off.relative_error == pytest.approx(0.1)
    assert off.sqnr_db == pytest.approx(20)
    assert Budget(relative_error=0.2).used(off) == pytest.approx(0.5)
    assert Budget(sqnr_db=40).used(off) == pytest.approx(10)
    assert Budget(relative_error=0.2, sqnr_db=40).used(off) == pytest.approx(10)  # all limits hold
    assert Budget(relative_error=1e-9).used(distance(truth, truth)) == 0


def test_agreement() -> None:
    truth = torch.eye(4, dtype=torch.float64)
    value = truth.clone()
    value[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    one_of_four = distance(value, truth)
    assert one_of_four.top1_agreement == 0.75
    assert Budget(top1_agreement=0.5).used(one_of_four) == pytest.approx(0.5)
    assert Budget(top1_agreement=1.0).used(one_of_four) == math.inf
    assert Budget(top1_agreement=1.0).used(distance(truth, truth)) == 0


def test_scores() -> None:
    budget = Budget(metric=len, max_drop=0.02)
    assert budget.used_by_score(0.89, 0.9) == pytest.approx(0.5)
    assert budget.used_by_score(0.95, 0.9) == 0  # better is no drop
    assert Budget(metric=len, max_drop=0).used_by_score(0.89, 0.9) == math.inf
    assert repr(budget) == "Budget(metric=len, max_drop=0.02)"


def test_what_is_not_finite() -> None:
    """An output that became NaN breaks every budget; infinities that are meant count as nothing."""
    truth = torch.tensor([[1.0, -math.inf, 2.0]], dtype=torch.float64)
    same = distance(truth.float(), truth)
    assert same.relative_error < 1e-7
    assert same.top1_agreement == 1
    for wrong in (truth.nan_to_num(), torch.full_like(truth, math.nan)):
        assert Budget(relative_error=1e6).used(distance(wrong, truth)) == math.inf


def test_the_worst_output_decides_over_all_calls() -> None:
    a, b = torch.ones(2, 3, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    found = Distance().plus([a, b * 1.1, 3], [a, b, 3]).plus([a, b, 3], [a, b, 3])
    assert len(found.leaves) == 2
    assert found.relative_error == pytest.approx(0.1 / 2**0.5)  # half of the calls are exact
    assert found.cosine == pytest.approx(1, abs=1e-2)
    assert set(found.to_dict()) == {"relative_error", "expected", "sqnr_db", "top1_agreement", "cosine"}


def test_nothing_differs_from_nothing() -> None:
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    assert distance(zeros, zeros).relative_error == 0
    assert distance(zeros + 1e-3, zeros).relative_error == math.inf


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 6.3138), (2, 2.9200), (3, 2.3534), (4, 2.1318), (7, 1.8946), (31, 1.6955)]
)
def test_quantiles(freedom: int, quantile: float) -> None:
    """Those of tables; the series has its largest error at 4, its first."""
    assert student(freedom) == pytest.approx(quantile, abs=1e-3)


def test_one_sample_tells_nothing_of_others() -> None:
    truth = torch.ones(4, dtype=torch.float64)
    one = distance(truth * 1.1, truth)
    assert one.expected == one.relative_error


@pytest.mark.parametrize("by_call", [True, False])
def test_what_is_expected_of_others_is_hardly_exceeded(by_call: bool) -> None:
    """Drawn a thousand times: two sets of eight samples whose errors spread over a factor of three."""
    generator = torch.Generator().manual_seed(0)
    truth, exceeded, times = torch.ones(8, 1, dtype=torch.float64), 0, 1000
    for noise in torch.randn(times, 2, 8, 1, generator=generator).mul(0.25).exp().mul(0.01).double():
        if by_call:
            known, other = (functools.reduce(lambda d, e: d.plus([1 + e], [truth[0]]), e, Distance()) for e in noise)
        else:
            known, other = (distance(truth + e, truth) for e in noise)
        exceeded += other.relative_error > known.expected
        assert known.expected > known.relative_error
    assert 0.03 <= exceeded / times <= 0.09  # nearly 5 %: the errors are not quite log-normal
