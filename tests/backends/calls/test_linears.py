"""Linears of one input where no kernel takes them together: their weights are joined, in a copy that is watched."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import txgraph
from tests.helpers import normal
from tests.small import bits, find, module, traced
from txgraph.backends.calls import linears
from txgraph.backends.calls.linears import join_linears
from txgraph.ir import Graph, GraphBuilder, arguments, check_spec, interpret
from txgraph.ir.linears import Linears

Tensor = torch.Tensor
X = normal(2, 3, 8)
CONSTANTS = {"a": normal(4, 8), "b": normal(6, 8), "c": normal(1, 8), "e": normal(6)}
JOINED = {"clone": 3, "getitem": 3, "linear": 1, "split_with_sizes": 1}


def some_biased(x: Tensor, a: Tensor, b: Tensor, c: Tensor, e: Tensor) -> tuple[Tensor, ...]:
    together: tuple[Tensor, ...] = torch.ops.txgraph.linears(x, [a, b, c], [None, e, None])
    return together


def test_one_linear_of_copies() -> None:
    graph = traced(some_biased, X, **CONSTANTS)
    before = interpret(graph, [X])
    join_linears(graph)
    check_spec(graph)
    assert graph.count() == JOINED
    linear = arguments(find(graph, "linear"))
    weight, bias = (graph.constants[str(linear[name].target)] for name in ("weight", "bias"))
    assert weight.equal(torch.cat([CONSTANTS[name] for name in "abc"]))
    assert bits(bias).equal(bits(torch.cat([torch.full((4,), -0.0), CONSTANTS["e"], torch.full((1,), -0.0)])))
    assert len(graph.constants) == 2  # nothing else is kept
    assert graph.constants.frozen_values() == set(CONSTANTS)
    for value, expected in zip(interpret(graph, [X]), before, strict=True):
        torch.testing.assert_close(value, expected)
        assert value.is_contiguous()
        assert value.untyped_storage().nbytes() == expected.untyped_storage().nbytes()


def test_without_any_bias() -> None:
    graph = traced(
        lambda x, a, b: torch.ops.txgraph.linears(x, [a, b], [None, None]), X, a=CONSTANTS["a"], b=CONSTANTS["b"]
    )
    join_linears(graph)
    assert arguments(find(graph, "linear"))["bias"] is None


def test_pieces_that_are_not_returned_stay_pieces() -> None:
    def function(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        first, second = torch.ops.txgraph.linears(x, [a, b], [None, None])
        return first.sum() + second.sum()

    graph = traced(function, X, a=CONSTANTS["a"], b=CONSTANTS["b"])
    join_linears(graph)
    assert "clone" not in graph.count()


def test_large_weights_and_weights_that_vary_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "LARGEST_COPY", sum(CONSTANTS[name].nbytes for name in "abc") - 1)
    large = traced(some_biased, X, **CONSTANTS)
    given = traced(some_biased, X, CONSTANTS["a"], **{name: CONSTANTS[name] for name in "bce"})
    some_given = {name: CONSTANTS[name] for name in "ab"}
    bias_given = traced(
        lambda x, e, a, b: torch.ops.txgraph.linears(x, [a, b], [None, e]), X, CONSTANTS["e"], **some_given
    )
    for graph, inputs in ((large, [X]), (given, [X, CONSTANTS["a"]]), (bias_given, [X, CONSTANTS["e"]])):
        before = interpret(graph, inputs)
        join_linears(graph)
        check_spec(graph)
        assert set(graph.count()) == {"linear"}
        assert graph.constants.frozen_values() == frozenset()
        assert all(torch.equal(a, b) for a, b in zip(interpret(graph, inputs), before, strict=True))


def test_what_linears_are() -> None:
    graph = traced(some_biased, X, **CONSTANTS)
    found = Linears.of(find(graph, "txgraph::linears"))
    assert found is not None
    assert [str(w.target) for w in found.weights] == ["a", "b", "c"]
    assert [None if b is None else str(b.target) for b in found.biases] == [None, "e", None]
    one: Graph = traced(lambda x, a: F.linear(x, a).relu(), X, a=CONSTANTS["a"])
    node = find(one, "linear")
    assert Linears.of(node) == Linears(node.args[0], (node.args[1],), (None,), "")  # type: ignore[arg-type]
    activated = GraphBuilder(one, node).txgraph.linear_activation(*node.args, None, "relu")
    assert Linears.of(activated) == Linears(node.args[0], (node.args[1],), (None,), "relu")  # type: ignore[arg-type]
    assert Linears.of(find(one, "relu")) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_model_notices_that_its_weights_changed(dtype: torch.dtype) -> None:
    """The backend holds their values; the graph does not."""
    torch.manual_seed(0)
    parts = {name: nn.Linear(8, size) for name, size in (("q", 8), ("k", 4), ("v", 4))}
    model = module(lambda x: (parts["q"](x), parts["k"](x), parts["v"](x)), **parts).to(dtype)
    fast = txgraph.optimize(model, backend="inductor")
    fast(X.to(dtype))
    with torch.no_grad():
        parts["k"].weight.mul_(2)
    for value, expected in zip(fast(X.to(dtype)), model(X.to(dtype)), strict=True):
        torch.testing.assert_close(value, expected)
    assert any("k.weight" in note for note in fast.report.notes)
