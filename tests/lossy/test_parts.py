"""What a lossy rewrite is compiled to is judged by itself, on what flows into it."""

from __future__ import annotations

import torch
from torch import nn

import txgraph
from tests.helpers import normal
from txgraph import Budget
from txgraph.passes.precision.int8 import Int8


class First(nn.Module):
    """A pooler: what flows into it are pieces of rows that lie apart."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(x[:, 0]))


def test_inputs_lie_as_they_do_in_the_model() -> None:
    torch.manual_seed(0)
    passes = txgraph.default_pipeline().append(Int8())
    data = [normal(3, 5, 64) * (at + 1) for at in range(4)]
    budget = Budget(relative_error=0.1)
    fast = txgraph.optimize(
        First().eval(), (data[0],), passes=passes, budget=budget, calibration=data, backend="inductor"
    )
    assert fast.report.budget is not None
    assert [each.module for each in fast.report.budget.spent] == ["dense"]
