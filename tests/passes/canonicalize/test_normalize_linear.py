"""A matrix product with a weight becomes linear where that is what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.helpers import FLOATS, assert_numbers, normal, reasons, rewritten
from tests.small import apply, find, graph_of, module, traced
from txgraph.ir import arguments
from txgraph.passes.canonicalize.normalize_linear import NormalizeLinear
from txgraph.passes.canonicalize.normalize_views import NormalizeViews
from txgraph.rewrite import PassContext, explain_pass

RULE = NormalizeLinear()
X, W, B = normal(2, 3, 4), normal(4, 5), normal(5)
LINEAR = {"linear": 1, "transpose": 1}

Tensor = torch.Tensor


def plain(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.addmm(b, x, w)


def flattened(*shape: int, inner: tuple[int, int] = (-1, 4)) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """As transformers' Conv1D computes it."""
    return lambda x, w, b: torch.addmm(b, x.reshape(inner), w).reshape(shape)


def test_addmm() -> None:
    after = rewritten(RULE, plain, X[0], w=W, b=B)
    assert after.count() == LINEAR
    named = arguments(find(after, "linear"))
    assert named["input"] is after.inputs[0]
    assert named["weight"] is find(after, "transpose")
    assert named["weight"].args[0].target == "w"
    assert named["bias"].target == "b"


def test_the_flattening_around_it() -> None:
    after = rewritten(RULE, flattened(2, 3, 5), X, w=W, b=B)
    assert after.count() == LINEAR
    assert arguments(find(after, "linear"))["input"] is after.inputs[0]


FLATTENED = [((4,), (5,)), ((1, 4), (1, 5)), ((1, 1, 4), (1, 1, 5)), ((2, 3, 7, 4), (2, 3, 7, 5)), ((13, 4), (13, 5))]


@pytest.mark.parametrize(("shape", "result"), FLATTENED, ids=str)
def test_shapes(shape: tuple[int, ...], result: tuple[int, ...]) -> None:
    assert rewritten(RULE, flattened(*result), normal(*shape), w=W, b=B).count() == LINEAR


@pytest.mark.parametrize(("rows", "k", "n"), [(0, 4, 5), (3, 0, 5), (3, 4, 0), (1, 1, 1), (13, 17, 19)])
def test_sizes(rows: int, k: int, n: int) -> None:
    assert rewritten(RULE, plain, normal(rows, k), w=normal(k, n), b=normal(n)).count() == LINEAR


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    constants = {"w": W.to(dtype), "b": B.to(dtype)}
    assert rewritten(RULE, flattened(2, 3, 5), X.to(dtype), **constants).count() == LINEAR


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -0.0, 1e-40, 1e30])
def test_edge_values(value: float) -> None:
    x = X.clone()
    x[0, 1] = value
    rewritten(RULE, flattened(2, 3, 5), x, w=W, b=B)
    w = W.clone()
    w[1] = value
    rewritten(RULE, flattened(2, 3, 5), X, w=w, b=B)


def test_weight_and_bias_may_be_any_value() -> None:
    assert rewritten(RULE, plain, X[0], W, B).count() == LINEAR


def test_inputs_of_any_layout() -> None:
    after, _ = apply(RULE, traced(flattened(2, 3, 5), X, w=W, b=B))
    for x in (normal(3, 2, 4).transpose(0, 1), normal(1, 1, 4).expand(2, 3, 4), normal(2, 3, 8)[..., ::2]):
        assert_numbers(after, flattened(2, 3, 5), x, w=W, b=B)


def test_dynamic_sizes() -> None:
    model = module(lambda x: torch.addmm(model.b, x.view(-1, 4), model.w).view(x.shape[0], x.shape[1], 5))
    model.w, model.b = nn.Parameter(W), nn.Parameter(B)
    graph, _ = apply(NormalizeViews(), graph_of(model, X, dynamic_shapes=({0: Dim("B"), 1: Dim("S")},)))
    after, _ = apply(RULE, graph)
    assert after.count() == LINEAR
    for b, s in ((2, 3), (4, 2), (3, 17)):
        assert_numbers(after, model.forward, normal(b, s, 4))


def test_several() -> None:
    def function(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
        hidden = torch.addmm(b, x.reshape(-1, 4), w).reshape(2, 3, 5).relu()
        return torch.addmm(c, hidden.reshape(-1, 5), v).reshape(2, 3, 4)

    after = rewritten(RULE, function, X, w=W, b=B, v=normal(5, 4), c=normal(4))
    assert after.count() == {"linear": 2, "relu": 1, "transpose": 2}


# Where the flattening stays, or everything does, and why.


def why(function: Callable[..., Any], *inputs: Tensor, **constants: Tensor) -> list[str]:
    """Reasons of all near misses; a product may still match without what stands around it."""
    _, misses = explain_pass(RULE, traced(function, *inputs, **constants), PassContext())
    return [miss.reason for miss in misses]


def test_flattened_axes_that_come_back_in_another_order() -> None:
    after = rewritten(RULE, flattened(3, 2, 5), X, w=W, b=B)
    assert after.count() == LINEAR | {"reshape": 2}
    reason = "the flattened axes do not come back unchanged: f32[2, 3, 4] -> f32[3, 2, 5]"
    assert reason in why(flattened(3, 2, 5), X, w=W, b=B)


def test_last_axis_that_is_split_or_joined_by_the_flattening() -> None:
    assert rewritten(RULE, flattened(2, 3, 5), normal(2, 2, 6), w=W, b=B).count()["reshape"] == 2
    assert rewritten(RULE, flattened(6, 5), X, w=W, b=B).count()["reshape"] >= 1
    assert rewritten(RULE, flattened(2, 15), X, w=W, b=B).count()["reshape"] == 2
    assert rewritten(RULE, flattened(2, 3, 5), normal(2, 12), w=W, b=B).count()["reshape"] == 2
    assert rewritten(RULE, flattened(2, 3, 5, 1), X, w=W, b=B).count()["reshape"] == 2


def test_nothing_at_all_reshaped_into_another_width() -> None:
    """No elements fit any width; linear would give its own."""
    after = rewritten(RULE, flattened(0, 3, 7, inner=(0, 4)), X[:0], w=W, b=B)
    assert after.count() == LINEAR | {"reshape": 2}


def test_inner_value_used_elsewhere() -> None:
    def flat(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        inner = x.reshape(-1, 4)
        return torch.addmm(b, inner, w).reshape(2, 3, 5), inner + 1

    def product(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        inner = torch.addmm(b, x.reshape(-1, 4), w)
        return inner.reshape(2, 3, 5), inner + 1

    assert "inner value %reshape is also used by %add" in why(flat, X, w=W, b=B)
    assert "inner value %addmm is also used by %add" in why(product, X, w=W, b=B)
    for function in (flat, product):  # the product alone is a linear on the flattened value
        assert rewritten(RULE, function, X, w=W, b=B).count() == LINEAR | {"add": 1, "reshape": 2}


@pytest.mark.parametrize("shape", [(3, 5), (1, 5), (3, 1), ()], ids=str)
def test_added_term_that_is_no_bias(shape: tuple[int, ...]) -> None:
    found = reasons(RULE, plain, X[0], w=W, b=normal(*shape))
    assert found == [f"the added term is f32{list(shape)}, not a bias of one axis"]


def test_bias_that_broadcasts() -> None:
    assert rewritten(RULE, plain, X[0], w=W, b=normal(1)).count() == LINEAR


@pytest.mark.parametrize(("name", "value"), [("alpha", 2), ("beta", 0.5), ("beta", 0)])
def test_factors(name: str, value: float) -> None:
    function = lambda x, w, b: torch.addmm(b, x, w, **{name: value})  # noqa: E731
    assert reasons(RULE, function, X[0], w=W, b=B) == [f"addmm has {name}={value}"]


@pytest.mark.parametrize("x", [X, X[0], normal(2, 1, 3, 4), normal(0, 4)], ids=lambda x: str(x.dim()))
def test_products_with_a_weight(x: Tensor) -> None:
    after = rewritten(RULE, lambda x, w: x @ w, x, w=W)
    assert after.count() == {"linear": 1, "transpose": 1}


def test_product_with_a_weight_that_is_transposed_already() -> None:
    after = rewritten(RULE, lambda x, w: x @ w.transpose(0, 1), X, w=normal(5, 4))
    assert after.count() == {"linear": 1}
    assert arguments(find(after, "linear"))["weight"].op == "get_attr"


def test_other_products_stay() -> None:
    assert apply(RULE, traced(lambda x, w: x @ w, X, W))[1] == []
    assert apply(RULE, traced(lambda x, w: x @ w, X, w=normal(2, 4, 5)))[1] == []
    assert apply(RULE, traced(lambda x, w: x @ w, X[0, 0], w=W))[1] == []
    assert apply(RULE, traced(lambda x, w: x @ w, X, w=W[:, 0]))[1] == []
    assert apply(RULE, traced(lambda x, w: torch.mm(x, w), X[0], w=W))[1] == []
    assert apply(RULE, traced(lambda x, w, b: torch.baddbmm(b, x, w), X, w=normal(2, 4, 5), b=B))[1] == []
