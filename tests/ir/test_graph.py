"""The graph as a whole: views of it, copies, dead code, and the networkx form."""

from __future__ import annotations

import networkx as nx
import torch
from torch import nn

from tests.small import MLP, Linear, find, graph_of, module
from tests.zoo import ZOO
from txgraph.ir import GraphBuilder, check_spec, interpret
from txgraph.ir.graph import output_leaves

X = torch.ones(2, 4)


def test_parts() -> None:
    graph = graph_of(MLP(), X, scale=2.0)
    assert [n.target for n in graph.inputs] == ["x"]
    assert [n.name for n in graph.outputs] == [graph.calls()[-1].name]
    assert graph.count() == {"clone": 1, "gelu": 1, "linear": 2, "mul": 1}
    assert len(graph) == 1 + 4 + 5 + 1
    assert graph.output.op == "output"


def test_constants_by_node() -> None:
    model = Linear()
    graph = graph_of(model, X)
    weight = find(graph, "linear").args[1]
    assert graph.constant(weight) is graph.constants["layer.weight"]
    assert graph.constant(find(graph, "linear")) is None
    assert graph.constant(None) is None
    assert graph.constant(3.0) is None


def test_a_copy_is_independent() -> None:
    graph = graph_of(MLP(), X)
    text, names = str(graph), [n.name for n in graph.nodes]
    copy = graph.copy()
    assert str(copy) == text
    assert [n.name for n in copy.nodes] == names
    gelu = find(copy, "gelu")
    gelu.meta["mark"] = True
    gelu.replace_all_uses_with(GraphBuilder(copy, copy.calls()[2]).aten.relu(gelu.args[0]))
    copy.eliminate_dead_code()
    GraphBuilder(copy, copy.output).constant("extra", torch.ones(1), ["up.bias"])
    copy.constants.observe(["up.weight"])
    assert "gelu" not in copy.count()
    assert str(graph) == text
    assert "extra" not in graph.constants
    assert graph.constants.frozen_values() == frozenset()
    assert "mark" not in find(graph, "gelu").meta
    check_spec(graph)


def test_a_copy_shares_the_weights() -> None:
    graph = graph_of(MLP(), X)
    assert all(graph.copy().constants[name] is tensor for name, tensor in graph.constants.items())


def test_dead_code_and_what_it_used_are_removed() -> None:
    graph = graph_of(MLP(), X)
    bias = find(graph, "gelu").args[0].args[2]
    g = GraphBuilder(graph, graph.output)
    dead = [g.aten.neg(bias)]
    dead.append(g.aten.exp(dead[0]))
    folded = g.constant("folded", torch.ones(1), ["up.bias"])
    assert graph.eliminate_dead_code() == [folded.name, *[n.name for n in dead]]
    assert "folded" not in graph.constants
    assert graph.constants.sources == {}
    assert "up.bias" in graph.constants
    assert graph.eliminate_dead_code() == []


def test_unused_inputs_and_written_buffers_stay() -> None:
    model = module(lambda x, unused: model.count.add_(1) * 0 + x)
    model.register_buffer("count", torch.zeros(1))
    graph = graph_of(model, X, X)
    graph.eliminate_dead_code()
    assert [n.target for n in graph.inputs] == ["x", "unused"]
    assert "count" in graph.constants


def test_mutated_values_lead_the_outputs() -> None:
    model = module(lambda x: x + model.count.add_(1))
    model.register_buffer("count", torch.zeros(1))
    graph = graph_of(model, X)
    assert [(m.kind, m.target) for m in graph.mutations] == [("buffer", "count")]
    results = interpret(graph, [X])
    assert [r.tolist() for r in results] == [[1.0], (X + 1).tolist()]
    assert output_leaves(graph, results) == results[1:]


def test_networkx() -> None:
    graph = graph_of(MLP(), X)
    digraph = graph.to_networkx()
    assert isinstance(digraph, nx.DiGraph)
    assert list(digraph.nodes) == [n.name for n in graph.nodes]
    assert nx.is_directed_acyclic_graph(digraph)
    gelu = find(graph, "gelu")
    attributes = digraph.nodes[gelu.name]
    assert attributes["op"] == "gelu"
    assert attributes["kind"] == "call_function"
    assert attributes["type"] == "f32[2, 8]"
    assert attributes["module"] == ""
    assert attributes["location"].startswith("small.py:")
    assert list(digraph.predecessors(gelu.name)) == [gelu.args[0].name]
    edges = {(s.name, n.name) for n in graph.nodes for s in n.all_input_nodes}
    assert set(digraph.edges) == edges


def test_networkx_analyses_of_a_real_model() -> None:
    architecture = ZOO["bert-sdpa"]
    graph = graph_of(architecture.model(), **architecture.inputs(2, 6))
    digraph = graph.to_networkx()
    linears = [n for n, op in digraph.nodes(data="op") if op == "linear"]
    # Of the 6 linears of each of the two layers, query, key and value lie side by side; the pooler has one more.
    path = nx.dag_longest_path(digraph)
    assert len(linears) == 13
    assert sum(n in linears for n in path) == 9
    assert nx.has_path(digraph, "input_ids", "output")
    assert {kind for _, kind in digraph.nodes(data="kind")} == {"placeholder", "get_attr", "call_function", "output"}


def test_two_graphs_of_one_model_own_the_same_tensors() -> None:
    model = nn.Sequential(Linear(), Linear()).eval()
    first, second = graph_of(model, X), graph_of(model, torch.ones(3, 4))
    assert set(first.constants) == set(second.constants)
    assert all(first.constants[n].data_ptr() == second.constants[n].data_ptr() for n in first.constants)
