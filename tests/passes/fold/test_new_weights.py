"""Computed weights: exact to one rounding, or a reason why there are none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers import normal
from tests.small import find, graph_of, traced
from txgraph.passes.fold.new_weights import rounded, times, why_not_replaced

Tensor = torch.Tensor
W = normal(5, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_products_are_rounded_once(dtype: torch.dtype) -> None:
    w, factor = W.to(dtype), normal(8).to(dtype)
    product = times(w, factor)
    assert isinstance(product, Tensor)
    assert product.equal((w.double() * factor.double()).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_16_bits_only_exact_values(dtype: torch.dtype) -> None:
    halved = times(W.to(dtype), torch.tensor(0.5))
    assert isinstance(halved, Tensor)
    assert halved.dtype is dtype
    assert times(W.to(dtype), torch.tensor(0.3)) == f"a folded value would be rounded to {dtype}"


def test_values_that_are_not_finite_or_vanish() -> None:
    assert rounded(torch.tensor([1e39], dtype=torch.float64), torch.float32) == (
        "a folded value is not finite in torch.float32"
    )
    assert times(W, torch.tensor(1e-40)) == "a folded value is subnormal in torch.float32"
    zero = times(W, torch.tensor(0.0))
    assert isinstance(zero, Tensor)
    assert not zero.any(), "a product with zero does not vanish: it is zero"


def test_what_may_be_replaced() -> None:
    graph = traced(lambda x, w, v: F.linear(x, w) + F.linear(x, v) + v.sum(), normal(2, 8), w=W, v=W + 1)
    first, second = (n for n in graph.calls() if n.name.startswith("linear"))
    w, v = first.args[1], second.args[1]
    assert why_not_replaced(graph, [w, v], None, ()) == ""
    assert why_not_replaced(graph, [w], w, [first]) == ""
    assert why_not_replaced(graph, [v], v, [second]) == f"v is also used by %{find(graph, 'sum').name}"
    assert why_not_replaced(graph, [first], None, ()) == f"%{first.name} is not a constant"


def test_what_each_call_changes() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", W.clone())

        def forward(self, x: Tensor) -> Tensor:
            y = F.linear(x, self.w)
            self.w.add_(1)
            return y

    graph = graph_of(Counting(), normal(2, 8))
    weight = find(graph, "linear").args[1]
    assert why_not_replaced(graph, [weight], None, ()) == "w is changed by each call"
