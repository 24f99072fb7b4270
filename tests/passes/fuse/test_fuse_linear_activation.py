"""A linear and its activation become one operator for backends that compute them together, and only for those."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from tests.helpers import FLOATS, normal, reasons, rewritten
from tests.small import apply, find, graph_of, module, traced
from txgraph.ir import arguments, interpret
from txgraph.ir.ops import ACTIVATIONS
from txgraph.options import Target
from txgraph.passes.fuse.fuse_linear_activation import FuseLinearActivation
from txgraph.rewrite import PassContext

RULE = FuseLinearActivation()
ALL = PassContext(Target("cpu"), frozenset(ACTIVATIONS))
FUSED = "txgraph::linear_activation"
X, W, B = normal(2, 3, 8), normal(5, 8), normal(5)

Tensor = torch.Tensor
Activation = Callable[[Tensor], Tensor]

AS_WRITTEN: dict[str, Activation] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": torch.ops.txgraph.quick_gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def with_bias(activation: Activation) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda x, w, b: activation(F.linear(x, w, b))


def without_bias(activation: Activation) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, w: activation(F.linear(x, w))


def test_every_activation_of_the_operator_is_tested() -> None:
    assert set(AS_WRITTEN) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_each_activation(name: str) -> None:
    after = rewritten(RULE, with_bias(AS_WRITTEN[name]), X, context=ALL, w=W, b=B)
    assert after.count() == {FUSED: 1}
    named = arguments(find(after, FUSED))
    assert (named["weight"].target, named["bias"].target, named["activation"]) == ("w", "b", name)
    after = rewritten(RULE, without_bias(AS_WRITTEN[name]), X, context=ALL, w=W)
    assert after.count() == {FUSED: 1}
    assert arguments(find(after, FUSED))["bias"] is None


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_only_what_the_backend_computes(name: str) -> None:
    """The reason names activation and target; the other activations do not count."""
    others = PassContext(Target("cpu"), frozenset(ACTIVATIONS) - {name})
    for context in (others, PassContext(Target("cpu"))):
        found = reasons(RULE, with_bias(AS_WRITTEN[name]), X, context=context, w=W, b=B)
        assert found == [f"the backend has no linear with {name} for cpu"]
    alone = PassContext(Target("cpu"), frozenset({name}))
    assert rewritten(RULE, with_bias(AS_WRITTEN[name]), X, context=alone, w=W, b=B).count() == {FUSED: 1}


def test_the_two_gelus_are_not_confused() -> None:
    only_exact = PassContext(Target("cuda"), frozenset({"gelu"}))
    found = reasons(RULE, with_bias(AS_WRITTEN["gelu_tanh"]), X, context=only_exact, w=W, b=B)
    assert found == ["the backend has no linear with gelu_tanh for cuda"]


@pytest.mark.parametrize("name", AS_WRITTEN)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    after = rewritten(RULE, with_bias(AS_WRITTEN[name]), X.to(dtype), context=ALL, w=W.to(dtype), b=B.to(dtype))
    assert after.count() == {FUSED: 1}


@pytest.mark.parametrize("shape", [(8,), (1, 8), (0, 8), (2, 0, 8), (13, 8), (2, 3, 5, 8)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    assert rewritten(RULE, with_bias(F.gelu), normal(*shape), context=ALL, w=W, b=B).count() == {FUSED: 1}


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 8), (0, 8), (5, 0), (1, 1)])
def test_sizes_of_the_weight(outputs: int, inputs: int) -> None:
    function, w, b = with_bias(F.relu), normal(outputs, inputs), normal(outputs)
    assert rewritten(RULE, function, normal(2, inputs), context=ALL, w=w, b=b).count() == {FUSED: 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -0.0, 1e-40, 1e30, -1e30])
@pytest.mark.parametrize("name", AS_WRITTEN)
def test_edge_values(name: str, value: float) -> None:
    x = X.clone()
    x[0, 1] = value
    rewritten(RULE, with_bias(AS_WRITTEN[name]), x, context=ALL, w=W, b=B)


def test_weight_that_is_stored_transposed() -> None:
    """As GPT-2 stores it: a view, no copy."""
    after = rewritten(
        RULE, lambda x, w: F.gelu(F.linear(x, w.transpose(0, 1)), approximate="tanh"), X, context=ALL, w=normal(8, 5)
    )
    assert after.count()[FUSED] == 1
    computed = lambda x, w: F.linear(x, (w * 2).transpose(0, 1)).relu()  # noqa: E731
    assert reasons(RULE, computed, X, context=ALL, w=normal(8, 5)) == ["the weight %mul is computed by the graph"]


def test_bias_that_broadcasts() -> None:
    assert rewritten(RULE, with_bias(F.relu), X, context=ALL, w=W, b=normal(1)).count() == {FUSED: 1}


def test_inputs_of_any_layout() -> None:
    for x in (normal(3, 2, 8).transpose(0, 1), normal(1, 1, 8).expand(2, 3, 8), normal(2, 3, 16)[..., ::2]):
        after, _ = apply(RULE, traced(with_bias(F.silu), X, w=W, b=B), ALL)
        torch.testing.assert_close(interpret(after, [x])[0], F.silu(F.linear(x, W, B)))


def test_dynamic_sizes() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 5)
    model = module(lambda x: F.gelu(layer(x)), layer=layer)
    after, _ = apply(RULE, graph_of(model, X, dynamic_shapes=({0: Dim("B"), 1: Dim("S")},)), ALL)
    assert after.count() == {FUSED: 1}
    for b, s in ((2, 3), (5, 2), (4, 17)):
        x = normal(b, s, 8)
        torch.testing.assert_close(interpret(after, [x])[0], model(x))


def test_several() -> None:
    def function(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        return torch.sigmoid(F.linear(F.gelu(F.linear(x, w)), v))

    assert rewritten(RULE, function, X, context=ALL, w=W, v=normal(8, 5)).count() == {FUSED: 2}


def test_two_activations_in_a_row() -> None:
    """Only the first is the linear's own."""
    after = rewritten(RULE, lambda x, w: F.linear(x, w).relu().tanh(), X, context=ALL, w=W)
    assert after.count() == {"tanh": 1, FUSED: 1}


# What must not be fused, and why.


def test_inner_value_used_elsewhere() -> None:
    def twice(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, w)
        return F.gelu(y), y + 1

    def gated(x: Tensor, w: Tensor) -> Tensor:
        y = F.linear(x, w)
        return y * torch.sigmoid(y)

    assert reasons(RULE, twice, X, context=ALL, w=W) == ["inner value %linear is also used by %add"]
    assert reasons(RULE, gated, X, context=ALL, w=W) == ["inner value %linear is also used by %mul"]


def test_inner_value_returned() -> None:
    def function(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, w)
        return F.gelu(y), y

    assert reasons(RULE, function, X, context=ALL, w=W) == ["inner value %linear is also used by %output"]


def test_weight_that_is_no_constant() -> None:
    found = reasons(RULE, without_bias(F.relu), X, W, context=ALL)
    assert found == ["the weight %w is computed by the graph"]
    found = reasons(RULE, lambda x, w: F.linear(x, w * 2).relu(), X, context=ALL, w=W)
    assert found == ["the weight %mul is computed by the graph"]


def test_weight_of_one_axis() -> None:
    """Its result has an axis less, which the fused operator does not know."""
    found = reasons(RULE, without_bias(F.relu), X, context=ALL, w=normal(8))
    assert found == ["the weight is f32[8], expected two axes"]


def test_other_activations() -> None:
    others: list[Activation] = [F.elu, F.leaky_relu, F.softplus, F.mish, F.hardtanh, lambda x: x.softmax(-1)]
    for activation in others:
        assert apply(RULE, traced(without_bias(activation), X, w=W), ALL)[1] == []


def test_something_between() -> None:
    found = reasons(RULE, lambda x, w: (F.linear(x, w) * 2).relu(), X, context=ALL, w=W)
    assert found == ["expected linear, found %mul = mul"]
