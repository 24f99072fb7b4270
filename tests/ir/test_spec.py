"""Each rule of the IR's spec, broken once."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import Node

from tests.small import find, graph_of, module, traced
from txgraph import InvalidGraph
from txgraph.ir import Graph, GraphBuilder, Mutation, check_spec

X = torch.ones(2, 4)
aten = torch.ops.aten


def linear_graph() -> Graph:
    return traced(lambda x, weight, bias: aten.linear(x, weight, bias), X, weight=torch.ones(3, 4), bias=torch.ones(3))


def insert(graph: Graph, op: str, target: Any, argument: Node) -> None:
    """Insert a node past the builder, typed as the linear is."""
    with graph.fx.inserting_before(graph.output):
        node = graph.fx.create_node(op, target, (argument,))
    node.meta["val"] = find(graph, "linear").meta["val"]


def unordered(graph: Graph) -> None:
    linear = find(graph, "linear")
    linear.prepend(GraphBuilder(graph, graph.output).aten.neg(linear))


def foreign(graph: Graph) -> None:
    insert(graph, "call_function", aten.relu.default, find(linear_graph(), "linear"))


def method_call(graph: Graph) -> None:
    insert(graph, "call_method", "relu", find(graph, "linear"))


def python_function(graph: Graph) -> None:
    insert(graph, "call_function", graph_of, find(graph, "linear"))


def in_place(graph: Graph) -> None:
    insert(graph, "call_function", aten.relu_.default, find(graph, "linear"))


def untyped(graph: Graph) -> None:
    insert(graph, "call_function", aten.relu.default, find(graph, "linear"))
    del find(graph, "relu").meta["val"]


def unowned_constant(graph: Graph) -> None:
    del graph.constants.tensors["bias"]


def twice_owned_constant(graph: Graph) -> None:
    graph.constants.tensors["again"] = graph.constants["weight"]
    with graph.fx.inserting_before(graph.output):
        graph.fx.create_node("get_attr", "again").meta["val"] = find(graph, "linear").meta["val"]


def no_output(graph: Graph) -> None:
    graph.fx.erase_node(graph.output)


BROKEN: list[tuple[Callable[[Graph], None], str]] = [
    (unordered, r"%neg\w* = neg.*: uses %linear, which does not come before it in this graph"),
    (foreign, r"%relu\w* = relu: uses %linear, which does not come before it in this graph"),
    (method_call, r"%relu = call_method: a call_method node; expected an operator call"),
    (python_function, r"%graph_of = graph_of: .* is not an operator with a schema"),
    (in_place, r"%relu_\w* = relu_: writes to its arguments; the IR is functional"),
    (untyped, r"%relu\w* = relu: has no type; build nodes with the GraphBuilder"),
    (unowned_constant, r"names the constant 'bias', which the graph does not own"),
    (twice_owned_constant, r"the constant 'again' is 'weight' again; tied weights have one name"),
    (no_output, r"the graph has no output node"),
]


@pytest.mark.parametrize(("break_it", "message"), BROKEN, ids=[f.__name__ for f, _ in BROKEN])
def test_rule_of_one_graph(break_it: Callable[[Graph], None], message: str) -> None:
    graph = linear_graph()
    check_spec(graph)
    break_it(graph)
    with pytest.raises(InvalidGraph, match=message):
        check_spec(graph)


def drop_output(graph: Graph) -> None:
    graph.output.args = (graph.outputs[:1],)


def other_dtype(graph: Graph) -> None:
    g = GraphBuilder(graph, graph.output)
    graph.output.args = ((g.aten._to_copy(graph.outputs[0], dtype=torch.float64), *graph.outputs[1:]),)


def other_shape(graph: Graph) -> None:
    g = GraphBuilder(graph, graph.output)
    graph.output.args = ((graph.outputs[0], g.aten.unsqueeze(graph.outputs[1], 0)),)


def plain_value(graph: Graph) -> None:
    graph.output.args = ((graph.outputs[0], 3),)


def drop_input(graph: Graph) -> None:
    graph.fx.erase_node(graph.inputs[1])


CONTRACT: list[tuple[Callable[[Graph], None], str]] = [
    (drop_output, r"the graph has 1 outputs where it had 2"),
    (other_dtype, r"output 0 \(%_to_copy.* is f64\[2, 4\] where it was f32\[2, 4\]"),
    (other_shape, r"output 1 \(%unsqueeze.* is f32\[1, 2, 4\] where it was f32\[2, 4\]"),
    (plain_value, r"output 1 is None where it was f32\[2, 4\]"),
    (drop_input, r"the graph has 1 inputs where it had 2"),
]


@pytest.mark.parametrize(("break_it", "message"), CONTRACT, ids=[f.__name__ for f, _ in CONTRACT])
def test_rule_against_the_graph_before(break_it: Callable[[Graph], None], message: str) -> None:
    before = graph_of(lambda x, unused: (x + 1, x * 2), X, X)
    after = before.copy()
    check_spec(after, before)
    break_it(after)
    check_spec(after)
    with pytest.raises(InvalidGraph, match=message):
        check_spec(after, before)


def test_mutations_stay() -> None:
    before = graph_of(lambda x: x.add_(1), X)
    assert before.mutations == (Mutation("input", "x"),)
    after = before.copy()
    after.mutations = ()
    with pytest.raises(InvalidGraph, match="mutations changed"):
        check_spec(after, before)


def test_message_names_the_users_module_and_line() -> None:
    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.exp()

    graph = graph_of(module(lambda x: inner(x), inner=(inner := Inner())), X)
    del find(graph, "exp").meta["val"]
    line = Inner.forward.__code__.co_firstlineno + 1
    with pytest.raises(InvalidGraph, match=rf"%exp = exp in inner \(test_spec.py:{line}\)"):
        check_spec(graph)


def test_symbolic_arithmetic_is_allowed() -> None:
    dynamic = {"x": {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}}
    graph = graph_of(lambda x: x.reshape(x.shape[0] * x.shape[1]) * (x.shape[0] // 2), X, dynamic_shapes=dynamic)
    assert operator.mul in {n.target for n in graph.calls()}
    check_spec(graph)


def test_equal_symbolic_sizes_keep_the_contract() -> None:
    before = graph_of(lambda x: x * 2, X, dynamic_shapes={"x": {0: torch.export.Dim.AUTO}})
    after = before.copy()
    g = GraphBuilder(after, after.output)
    after.output.args = ((g.aten.neg(after.outputs[0]),),)
    check_spec(after, before)
    after.output.args = ((g.aten.slice.Tensor(after.outputs[0], 0, 0, 1),),)
    with pytest.raises(InvalidGraph, match=r"output 0 .* is f32\[1, 4\] where it was"):
        check_spec(after, before)


def test_empty_constants_are_not_taken_for_one() -> None:
    model = module(lambda x: (x, model.a, model.b), a=nn.Parameter(torch.empty(0)), b=nn.Parameter(torch.empty(0)))
    graph = graph_of(model, X)
    assert set(graph.constants) == {"a", "b"}
    check_spec(graph)
