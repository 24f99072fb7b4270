"""A budget chooses which modules are compressed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import txgraph
from tests.helpers import normal
from txgraph import Budget
from txgraph.passes import Int8, LowRank
from txgraph.retraining import CompressedLinear, Prune

CALIBRATION = [(normal(2, 8, 64) + at,) for at in range(4)]


class Mixed(nn.Module):
    """Three linears of one input, one with a scale that is folded into it, and a tied pair."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(64, 64, bias=False) for _ in range(3))
        self.out = nn.Linear(64, 64)
        self.plain = nn.Parameter(normal(64, 64) / 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.q(x) * 0.3) + torch.sin(self.k(x)) + self.v(x)
        return self.out(torch.relu(y)) + F.linear(torch.cos(x), self.plain)


def test_what_a_budget_allows_is_done_to_modules(caplog: pytest.LogCaptureFixture) -> None:
    small = txgraph.compress(
        Mixed().eval(), Int8(), calibration=CALIBRATION, budget=Budget(relative_error=0.1), backend="reference"
    )
    assert all(isinstance(getattr(small, name), CompressedLinear) for name in ("q", "k", "v", "out"))
    assert "plain stays as it is" in caplog.text
    wanted = Mixed()(CALIBRATION[0][0])
    assert (small(CALIBRATION[0][0]) - wanted).norm() < 0.1 * wanted.norm()


def test_a_small_budget_allows_little() -> None:
    small = txgraph.compress(
        Mixed().eval(),
        LowRank(rank=8),
        calibration=CALIBRATION,
        budget=Budget(relative_error=1e-4),
        backend="reference",
    )
    assert all(isinstance(getattr(small, name), nn.Linear) for name in ("q", "k", "v", "out"))


def test_errors() -> None:
    with pytest.raises(ValueError, match="budget= needs calibration="):
        txgraph.compress(Mixed(), budget=Budget(relative_error=0.1))
    with pytest.raises(ValueError, match="Prune has no place"):
        txgraph.compress(Mixed(), Prune(), calibration=CALIBRATION, budget=Budget(relative_error=0.1))
