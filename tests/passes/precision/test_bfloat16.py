"""Linears in bfloat16: inputs and weights are rounded, the bias and the activation are not."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.helpers import normal
from tests.lossy.models import applied
from txgraph.ir import interpret
from txgraph.passes.precision.bfloat16 import BFloat16

Tensor = torch.Tensor


def test_bias_and_activation_stay_in_float32() -> None:
    """All products are exact in bfloat16; one unit of the bias would be lost in it."""
    x, w, b = torch.full((3, 8), 2.0), torch.full((4, 8), 16.0), torch.full((4,), 0.0625)

    def activated(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.ops.txgraph.linear_activation(x, w, b, "relu")

    graph, rewrites = applied(BFloat16(), activated, x, w=w, b=b)
    assert len(rewrites) == 1
    assert {name: t.dtype for name, t in graph.constants.items()} == {"w_bf16_0": torch.bfloat16, "b": torch.float32}
    (value,) = interpret(graph, [x])
    assert value.dtype is torch.float32
    assert value.equal(torch.full((3, 4), 256.0625))
    assert value.equal(F.linear(x, w, b).relu())


def test_inputs_and_weights_are_rounded() -> None:
    x, w = normal(2, 5, 64), normal(32, 64)
    graph, _ = applied(BFloat16(), lambda x, w: F.linear(x, w), x, w=w)
    rounded = F.linear(x.bfloat16().double(), w.bfloat16().double())
    found = interpret(graph, [x])[0].double()
    assert float((found - rounded).norm() / rounded.norm()) < 2**-8  # the product itself is given in bfloat16
    assert float((found - F.linear(x, w).double()).norm()) > 0
