"""The product of a value and its sigmoid becomes silu, and no other product does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import FLOATS, LAYOUTS, assert_any_sizes, assert_numbers, normal, reasons, rejections, rewritten
from tests.small import apply, traced
from txgraph.passes.fuse.fuse_silu import FuseSilu

RULE = FuseSilu()
X = normal(2, 3, 8) * 3

Tensor = torch.Tensor
Unary = Callable[[Tensor], Tensor]


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


@pytest.mark.parametrize("function", [swish, lambda x: torch.sigmoid(x) * x, lambda x: x.sigmoid().mul(x)])
def test_both_orders(function: Unary) -> None:
    assert rewritten(RULE, function, X).count() == {"silu": 1}


def test_gated_unit() -> None:
    def function(x: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        return swish(F.linear(x, gate)) * F.linear(x, up)

    after = rewritten(RULE, function, X, gate=normal(4, 8), up=normal(4, 8) + 1)
    assert after.count() == {"linear": 2, "mul": 1, "silu": 1}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    assert rewritten(RULE, swish, (normal(64, 64) * 4).to(dtype)).count() == {"silu": 1}


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 8), (13, 7)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    assert rewritten(RULE, swish, normal(*shape)).count() == {"silu": 1}


EDGES = [0.0, -0.0, 1e-40, -1e-40, 30.0, -30.0, -88.0, -90.0, -104.0, 6e4, -6e4, *map(float, ("nan", "inf", "-inf"))]


@pytest.mark.parametrize("value", EDGES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_edge_values(value: float, dtype: torch.dtype) -> None:
    """Alone and among others: below about -88 the exponential is infinite in float32."""
    for x in (torch.full((3,), value), torch.tensor([value, 1.0, -1.0, value, 0.3])):
        assert rewritten(RULE, swish, x.to(dtype)).count() == {"silu": 1}


@pytest.mark.parametrize("x", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_inputs_of_any_layout(x: Tensor) -> None:
    after, _ = apply(RULE, traced(swish, X))
    assert_numbers(after, swish, x)


def test_dynamic_sizes() -> None:
    assert_any_sizes(RULE, swish, "silu")


def test_several_and_what_they_record() -> None:
    after, rewrites = apply(RULE, traced(lambda x: swish(swish(x)), X))
    assert after.count() == {"silu": 2}
    assert [(r.rule, len(r.removed)) for r in rewrites] == [("fuse-silu", 2)] * 2


# What must not be fused, and why.


def test_inner_value_used_elsewhere() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        gate = torch.sigmoid(x)
        return x * gate, gate.neg()

    assert reasons(RULE, function, X) == ["inner value %sigmoid is also used by %neg"]


def test_inner_value_returned() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        gate = torch.sigmoid(x)
        return x * gate, gate

    assert reasons(RULE, function, X) == ["inner value %sigmoid is also used by %output"]


def test_gate_of_another_value() -> None:
    assert reasons(RULE, lambda x, y: x * torch.sigmoid(y), X, X + 1) == ["'x' occurs twice with two values"]


def test_scaled_gate() -> None:
    """The quick approximation of GELU, which is another function."""
    found = reasons(RULE, lambda x: x * torch.sigmoid(1.702 * x), X)
    assert found[0] == "'x' occurs twice with two values"


@pytest.mark.parametrize("gate", [torch.tanh, torch.relu, F.hardsigmoid])
def test_other_gates(gate: Unary) -> None:
    assert reasons(RULE, lambda x: x * gate(x), X)[0].startswith("expected sigmoid, found %")


def test_integers() -> None:
    assert rejections(RULE, swish, torch.arange(5)) == ["x is i64[5]: silu is defined for floats"]
