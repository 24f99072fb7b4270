"""What holds for every narrower form of a linear: what it becomes, how near it stays, and where it is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import normal
from tests.lossy.models import applied
from tests.small import find, traced
from txgraph import PassContext
from txgraph.ir import interpret
from txgraph.passes.precision.bfloat16 import BFloat16
from txgraph.passes.precision.int8 import Int8
from txgraph.passes.precision.weight_only import WeightOnly
from txgraph.rewrite import LinearPass, LossyContext, LossyPass, Observed

Tensor = torch.Tensor
X, W, B = normal(2, 5, 64), normal(32, 64), normal(32)
METHODS = [Int8(), WeightOnly(bits=8), WeightOnly(bits=4), BFloat16()]
NEAR = {"int8": 0.02, "int8 weights": 0.01, "int4 weights in groups of 32": 0.15, "bfloat16": 0.01}


@pytest.mark.parametrize("each", METHODS, ids=lambda each: each.label)
@pytest.mark.parametrize("bias", [True, False])
def test_linears(each: LossyPass, bias: bool) -> None:
    if bias:
        graph, rewrites = applied(each, lambda x, w, b: F.linear(x, w, b), X, w=W, b=B)
    else:
        graph, rewrites = applied(each, lambda x, w: F.linear(x, w), X, w=W)
    exact = F.linear(X, W, B if bias else None)
    (value,) = interpret(graph, [X])
    assert value.dtype is torch.float32
    assert value.shape == exact.shape
    assert 0 < float((value - exact).norm() / exact.norm()) < NEAR[each.label.removesuffix(", migration 0.5")]
    (rewrite,) = rewrites
    assert rewrite.rule == each.name
    assert [new for _, new in rewrite.values] == [graph.outputs[0].name]
    assert each.run(graph, PassContext(lossy=LossyContext())) == []  # nothing is left that it knows


@pytest.mark.parametrize("each", METHODS, ids=lambda each: each.label)
def test_with_an_activation_and_of_one_input(each: LossyPass) -> None:
    graph, _ = applied(each, lambda x, w, b: torch.ops.txgraph.linear_activation(x, w, b, "gelu"), X, w=W, b=B)
    exact = F.gelu(F.linear(X, W, B))
    assert float((interpret(graph, [X])[0] - exact).norm() / exact.norm()) < 0.2
    other = normal(16, 64)
    graph, rewrites = applied(each, lambda x, w, v: torch.ops.txgraph.linears(x, [w, v], [None, None]), X, w=W, v=other)
    values = interpret(graph, [X])
    assert [tuple(v.shape) for v in values] == [(2, 5, 32), (2, 5, 16)]
    assert len(rewrites) == 1
    assert len(rewrites[0].values) == 2


@pytest.mark.parametrize("each", METHODS, ids=lambda each: each.label)
def test_left_alone(each: LossyPass) -> None:
    for function, x, constants in (
        (lambda x, w: F.linear(x, w), X.double(), {"w": W.double()}),  # not float32
        (lambda x: F.linear(x, x[0]), normal(4, 4, 4), {}),  # computed
    ):
        graph, rewrites = applied(each, function, x, **constants)
        assert rewrites == []
        assert find(graph, "linear") is not None


def test_only_the_modules_that_are_named() -> None:
    for modules, count in (("w", 0), ("*", 1), ("other.*", 0)):
        assert len(applied(Int8(modules=modules), lambda x, w: F.linear(x, w), X, w=W)[1]) == count


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Int8(migration=1.5), "migration=1.5, expected 0 to 1"),
        (lambda: WeightOnly(bits=3), "bits=3, expected 4 or 8"),
        (lambda: WeightOnly(bits=4, group=20), "group=20, expected a multiple of 32"),
    ],
)
def test_settings_that_do_not_exist(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_weights_that_cannot_be_quantized_are_named() -> None:
    misses: list[Any] = []
    for each, weight in ((Int8(), W * torch.inf), (WeightOnly(bits=4), normal(8, 40)), (BFloat16(), W * 1e39)):
        graph = traced(lambda x, w: F.linear(x, w), normal(2, weight.shape[1]), w=weight)
        assert each.run(graph, PassContext(lossy=LossyContext(), near_misses=misses)) == []
    assert [miss.reason for miss in misses] == [
        "a weight is not finite",
        "40 columns are no multiple of 32",
        "a weight is not finite in bfloat16",
    ]


@pytest.mark.parametrize("weights", [[W], [W, 2 * W], [W.t().contiguous().t()]], ids=["one", "two", "as Conv1D"])
@pytest.mark.parametrize("each", METHODS, ids=lambda each: each.label)
def test_a_draft_has_the_form_of_what_is_prepared(each: LinearPass, weights: list[torch.Tensor]) -> None:
    """Else its time would be another."""
    prepared = each.prepare(weights, Observed(10, X.reshape(-1, 64).abs().amax(0), torch.eye(64)))
    draft = each.draft(weights)
    assert not isinstance(prepared, str)
    assert not isinstance(draft, str)
    forms = [{name: (t.shape, t.dtype, t.stride()) for name, t in made.items()} for made in (prepared, draft)]
    assert forms[0] == forms[1]
