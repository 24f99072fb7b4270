"""The text of a graph: what people read, and what tests compare."""

from __future__ import annotations

import re

import torch

from tests.small import MLP, graph_of
from tests.zoo import ZOO
from txgraph.ir import Graph, GraphBuilder

AUTO = torch.export.Dim.AUTO


def test_a_whole_graph() -> None:
    graph = graph_of(MLP(), torch.ones(2, 4), scale=0.5)
    assert str(graph).splitlines() == [
        "%0: f32[2, 4] = input x",
        "%1: f32[2, 8] = linear(%0, up.weight, up.bias)",
        "%2: f32[2, 8] = gelu(%1)",
        "%3: f32[2, 4] = linear(%2, down.weight, down.bias)",
        "%4: f32[2, 4] = clone(%3)",
        "%5: f32[2, 4] = mul(%4, 0.5)",
        "return (%5)",
    ]


def test_a_real_model_with_symbolic_sizes() -> None:
    architecture = ZOO["bert-sdpa"]
    inputs = architecture.inputs(2, 12)
    dynamic = {name: {0: AUTO, 1: AUTO} for name in inputs}
    text = str(graph_of(architecture.model(), dynamic_shapes=dynamic, **inputs))
    lines = text.splitlines()
    assert lines[0] == "%0: i64[B, S] = input input_ids"
    assert lines[1] in ("%1: i64[B, S] = input attention_mask", "%1: i64[B2, S] = input attention_mask")
    query = r"%\d+: f32\[B, S, 32\] = linear\(%\d+, encoder\.layer\.0\.attention\.self\.query\.weight, .*query\.bias\)"
    assert any(re.fullmatch(query, line) for line in lines)
    assert not re.search(r"\bs\d+\b", text)
    assert lines[-1].startswith("return (")


def test_sizes_that_may_differ_have_different_names() -> None:
    graph = graph_of(
        lambda x, y: (x.sum(), y.sum()),
        torch.ones(2, 3, 4),
        torch.ones(5, 6),
        dynamic_shapes={"x": {0: AUTO, 1: AUTO, 2: AUTO}, "y": {0: AUTO, 1: AUTO}},
    )
    assert str(graph).splitlines()[:2] == ["%0: f32[B, S, D1] = input x", "%1: f32[B2, S2] = input y"]


def test_compound_sizes_use_the_readable_names() -> None:
    graph = graph_of(lambda x: x.reshape(-1), torch.ones(3, 5), dynamic_shapes={"x": {0: AUTO}})
    assert "f32[5*B]" in str(graph)


def printed(graph: Graph) -> str:
    """The last call's line, without its number and type."""
    return str(graph).splitlines()[-2].split(" = ")[1]


def test_arguments() -> None:
    x, y = torch.ones(2, 4), torch.ones(2, 4)
    assert printed(graph_of(lambda x, y: torch.cat([x, y], 1), x, y)) == "cat([%0, %1], 1)"
    assert printed(graph_of(lambda x: x.to(torch.float16), x)) == "_to_copy(%0, dtype=float16)"
    assert printed(graph_of(lambda x: x.mean((0, 1), keepdim=True), x)) == "mean(%0, [0, 1], True)"
    assert printed(graph_of(lambda x: x.new_zeros(3), x)).startswith("new_zeros(%0, [3]")


def test_values_that_are_no_tensors_have_no_type() -> None:
    lines = str(graph_of(lambda x: x.split(2), torch.ones(4, 4))).splitlines()
    assert lines[1] == "%1 = split(%0, 2)" or lines[1].startswith("%1 = split_with_sizes(%0")
    assert lines[2] == "%2: f32[2, 4] = getitem(%1, 0)"


def test_outputs_that_are_plain_values_and_constants() -> None:
    graph = graph_of(lambda x: (x, 3, None), torch.ones(2))
    assert str(graph).splitlines()[-1] == "return (%0, 3, None)"


def test_operators_of_the_own_namespace_are_named_with_it() -> None:
    graph = graph_of(MLP(), torch.ones(2, 4))
    x, w, b = graph.inputs[0], *[n for n in graph.nodes if n.op == "get_attr"][:2]
    GraphBuilder(graph, graph.output).txgraph.linear_activation(x, w, b, "relu")
    assert printed(graph) == "txgraph::linear_activation(%0, up.weight, up.bias, 'relu')"
