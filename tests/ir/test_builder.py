"""New nodes get their types by inference, and the origin of what they replace."""

from __future__ import annotations

import pytest
import torch

from tests.small import MLP, find, graph_of
from txgraph.ir import GraphBuilder, check_spec, interpret, provenance_of, type_of
from txgraph.ir.builder import fake_mode_of, infer

X = torch.ones(2, 4)
AUTO = torch.export.Dim.AUTO
aten = torch.ops.aten


def text(node: torch.fx.Node) -> str:
    return str(type_of(node))


def test_types_are_inferred() -> None:
    graph = graph_of(lambda x, y: (x, y), X, X.to(torch.float16))
    x, y = graph.inputs
    g = GraphBuilder(graph, graph.output)
    assert text(g.aten.unsqueeze(x, 0)) == "f32[1, 2, 4]"
    assert text(g.aten.cat([x, x], 1)) == "f32[2, 8]"
    assert text(g.aten.add.Tensor(x, y)) == "f32[2, 4]"  # type promotion
    assert text(g.aten.gt.Scalar(y, 0)) == "bool[2, 4]"
    assert text(g.aten._to_copy(x, dtype=torch.bfloat16)) == "bf16[2, 4]"
    check_spec(graph)


def test_symbolic_sizes_are_carried_on() -> None:
    graph = graph_of(lambda x: x + 1, X, dynamic_shapes={"x": {0: AUTO}})
    g = GraphBuilder(graph, graph.output)
    x = graph.inputs[0]
    assert type_of(g.aten.neg(x)) == type_of(x)
    assert type_of(g.aten.transpose.int(x, 0, 1)).format(graph.symbols) == "f32[4, B]"
    rows = g.call(aten.sym_size.int, x, 0)
    assert type_of(g.aten.reshape(x, [rows, 2, 2])).format(graph.symbols) == "f32[B, 2, 2]"
    # No guard was added: the size is still free.
    assert [r.shape for r in interpret(graph, [torch.ones(7, 4)])] == [(7, 4)]


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "eq", "ge", "remainder"])
def test_arithmetic_without_an_overload(name: str) -> None:
    graph = graph_of(lambda x, y: (x, y), X, X)
    x, y = graph.inputs
    g = GraphBuilder(graph, graph.output)
    graph.output.args = ((getattr(g.aten, name)(x, y), getattr(g.aten, name)(x, 2)),)
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 2.0]])
    expected = getattr(torch, name)(a, b), getattr(torch, name)(a, 2)
    assert all(map(torch.equal, interpret(graph, [a, b]), expected))


def test_an_operator_with_several_overloads_must_be_named() -> None:
    graph = graph_of(lambda x: x, X)
    g = GraphBuilder(graph, graph.output)
    with pytest.raises(TypeError, match=r"aten.select has the overloads .*'int'.*: name one"):
        g.aten.select(graph.inputs[0], 0, 1)


def test_an_unknown_operator() -> None:
    graph = graph_of(lambda x: x, X)
    with pytest.raises(AttributeError, match="no_such_operator"):
        GraphBuilder(graph, graph.output).aten.no_such_operator(graph.inputs[0])


def test_wrong_sizes_are_found_at_once() -> None:
    graph = graph_of(MLP(), X)
    weight = next(n for n in graph.nodes if n.op == "get_attr")
    with pytest.raises(RuntimeError, match="same reduction dim"):
        GraphBuilder(graph, graph.output).aten.mm(weight, weight)


def test_nodes_stand_before_the_given_place() -> None:
    graph = graph_of(MLP(), X)
    gelu = find(graph, "gelu")
    g = GraphBuilder(graph, gelu)
    first = g.aten.neg(gelu.args[0])
    second = g.aten.exp(first)
    assert g.made == [first, second]
    assert gelu.prev is second
    assert second.prev is first


def test_origin_and_passes_are_kept() -> None:
    graph = graph_of(MLP(), X)
    linear, gelu = find(graph, "gelu").args[0], find(graph, "gelu")
    linear.meta["txgraph_passes"] = ("earlier", "twice")
    gelu.meta["txgraph_passes"] = ("twice",)
    new = GraphBuilder(graph, gelu, like=[linear, gelu], made_by="my-pass").aten.relu(linear)
    assert provenance_of(new).passes == ("earlier", "twice", "my-pass")
    assert provenance_of(new).line == provenance_of(gelu).line
    assert provenance_of(new).file == provenance_of(gelu).file


def test_without_like_the_origin_is_the_place() -> None:
    graph = graph_of(MLP(), X)
    linear = find(graph, "gelu").args[0]
    new = GraphBuilder(graph, linear).aten.neg(graph.inputs[0])
    assert provenance_of(new).module == "up"
    assert provenance_of(new).passes == ()


def test_constants() -> None:
    graph = graph_of(MLP(), X).copy()
    gelu = find(graph, "gelu")
    g = GraphBuilder(graph, gelu, like=[gelu], made_by="my-pass")
    value = torch.arange(8.0)
    node = g.constant("folded", value, ["up.weight", "up.bias"])
    again = g.constant("folded", value + 1, ["up.bias"])
    assert (node.target, again.target) == ("folded", "folded_1")
    assert graph.constants["folded"] is value
    assert graph.constants.frozen_values() == {"up.weight", "up.bias"}
    assert text(node) == "f32[8]"
    assert provenance_of(node).passes == ("my-pass",)
    gelu.args = (g.aten.add(gelu.args[0], node),)
    check_spec(graph)
    model = MLP()
    expected = model.down(torch.nn.functional.gelu(model.up(X) + value))
    assert torch.equal(interpret(graph, [X])[0], expected)


def test_a_constant_is_typed_statically_in_a_dynamic_graph() -> None:
    graph = graph_of(lambda x: x + 1, X, dynamic_shapes={"x": {0: AUTO}}).copy()
    node = GraphBuilder(graph, graph.output).constant("table", torch.ones(5, 4), [])
    assert text(node) == "f32[5, 4]"


def test_all_types_belong_to_one_fake_mode() -> None:
    graph = graph_of(MLP(), X)
    mode = fake_mode_of(graph)
    node = GraphBuilder(graph, graph.output).aten.neg(graph.inputs[0])
    assert node.meta["val"].fake_mode is mode
    assert infer(node).fake_mode is mode
