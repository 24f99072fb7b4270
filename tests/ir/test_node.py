"""What a pass may ask of a node: its operator, arguments, type and origin."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import nn

from tests.small import Linear, find, graph_of, module
from tests.zoo import ZOO
from txgraph.ir import (
    GraphBuilder,
    TensorType,
    arguments,
    describe,
    is_impure,
    is_random,
    is_symbolic,
    op_name,
    packet_of,
    provenance_of,
    same_size,
    type_of,
)

X = torch.ones(2, 4)
AUTO = torch.export.Dim.AUTO
CPU = torch.device("cpu")
aten = torch.ops.aten
SDPA = "scaled_dot_product_attention"


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return nn.functional.scaled_dot_product_attention(q, k, v)


def test_arguments_fill_in_the_defaults_of_the_schema() -> None:
    graph = graph_of(Linear(), X)
    named = arguments(find(graph, "linear"))
    assert list(named) == ["input", "weight", "bias"]
    assert named["input"] is graph.inputs[0]
    node = find(graph_of(attention, *[torch.ones(1, 2, 3, 4)] * 3), SDPA)
    assert list(arguments(node).values())[3:] == [None, 0.0, False, None, False]


def test_arguments_by_keyword() -> None:
    node = find(graph_of(lambda x: x.to(torch.float16), X), "_to_copy")
    assert arguments(node)["dtype"] is torch.float16
    assert arguments(node)["memory_format"] is None


def test_arguments_of_something_without_a_schema() -> None:
    graph = graph_of(lambda x: x.split(2), torch.ones(4, 4))
    with pytest.raises(TypeError, match="getitem is not an operator with a schema"):
        arguments(next(n for n in graph.calls() if n.target is operator.getitem))


def test_names_and_packets() -> None:
    graph = graph_of(lambda x: (x + 1).split(1)[0], X)
    add, split, getitem = graph.calls()[:3]
    assert [op_name(n) for n in (graph.inputs[0], add, getitem, graph.output)] == [
        "placeholder",
        "add",
        "getitem",
        "output",
    ]
    assert packet_of(add) is aten.add
    assert packet_of(split) is not None
    assert packet_of(getitem) is None


def test_types() -> None:
    graph = graph_of(Linear(), X)
    assert type_of(find(graph, "linear")) == TensorType(torch.float32, (2, 4), CPU)
    assert type_of(graph.output) is None
    assert type_of(3) is None
    assert str(type_of(torch.ones(2, dtype=torch.bool))) == "bool[2]"
    assert str(type_of(torch.ones(2, 3, dtype=torch.bfloat16))) == "bf16[2, 3]"


def test_types_differ_in_dtype_rank_or_size() -> None:
    base = TensorType(torch.float32, (2, 4), CPU)
    others = [
        TensorType(torch.float64, (2, 4), CPU),
        TensorType(torch.float32, (2, 4, 1), CPU),
        TensorType(torch.float32, (2, 5), CPU),
        TensorType(torch.float32, (2, 4), torch.device("meta")),
        "f32[2, 4]",
    ]
    assert all(base != other for other in others)
    assert base == TensorType(torch.float32, (2, 4), CPU)
    assert len({base, TensorType(torch.float32, (2, 4), CPU)}) == 1


def test_symbolic_sizes_are_compared_without_a_guard() -> None:
    graph = graph_of(lambda x: (x * 2, x[1:]), torch.ones(3, 4), dynamic_shapes={"x": {0: AUTO}})
    doubled, shorter = (type_of(n) for n in graph.outputs)
    source = type_of(graph.inputs[0])
    assert doubled == source
    assert shorter != source
    assert same_size(source.shape[0], doubled.shape[0])
    assert not same_size(source.shape[0], 3)  # its size in the example
    assert same_size(4, 4)
    assert not same_size(4, 5)


class Inner(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.exp()


def test_provenance() -> None:
    model = module(lambda x: model.inner[0](x), inner=nn.Sequential(Inner()))
    node = find(graph_of(model, X), "exp")
    origin = provenance_of(node)
    line = Inner.forward.__code__.co_firstlineno + 1
    assert (origin.module, origin.module_type) == ("inner.0", "Inner")
    assert (origin.file, origin.line, origin.code) == (__file__, line, "return x.exp()")
    assert origin.location == f"test_node.py:{line}"
    assert origin.passes == ()
    assert describe(node) == f"%exp = exp in inner.0 (test_node.py:{line})"


def test_provenance_in_a_real_model_is_the_models_own_line() -> None:
    architecture = ZOO["bert-sdpa"]
    graph = graph_of(architecture.model(), **architecture.inputs(2, 6))
    linears = [n for n in graph.calls() if op_name(n) == "linear"]
    query = next(n for n in linears if n.args[1].target == "encoder.layer.0.attention.self.query.weight")
    origin = provenance_of(query)
    assert origin.module == "encoder.layer.0.attention.self.query"
    assert origin.module_type == "Linear"
    assert origin.location.startswith("modeling_bert.py:")
    assert "self.query(" in origin.code
    assert all(provenance_of(n).file for n in graph.calls() if not is_symbolic(n))


def test_provenance_of_a_node_without_any() -> None:
    graph = graph_of(Linear(), X)
    assert provenance_of(graph.inputs[0]).location == ""
    assert describe(graph.output) == "%output = output"


@pytest.mark.parametrize(
    ("function", "random"),
    [
        (lambda x: nn.functional.dropout(x, 0.5, True), True),
        (lambda x: nn.functional.dropout(x, 0.0, True), False),
        (lambda x: nn.functional.dropout(x, 0.5, False), False),
        (lambda x: torch.rand(3), True),
        (lambda x: torch.bernoulli(x), True),
        (lambda x: x + 1, False),
    ],
)
def test_random_operators(function: object, random: bool) -> None:
    exported = torch.export.export(module(function), (X,), strict=False)
    calls = [n for n in exported.graph.nodes if n.op == "call_function"]
    assert any(map(is_random, calls)) == random
    assert any(map(is_impure, calls)) == random


@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_attention_is_random_only_with_dropout(probability: float) -> None:
    graph = graph_of(attention, *[torch.ones(1, 2, 3, 4)] * 3)
    node = find(graph, SDPA)
    node.args = (*node.args[:3], None, probability)
    assert is_random(node) == bool(probability)


def test_what_must_stay_even_if_unused() -> None:
    graph = graph_of(Linear(), X)
    impure = [n.op for n in graph.nodes if is_impure(n)]
    assert impure == ["placeholder", "output"]
    with graph.fx.inserting_before(graph.output):
        assert is_impure(graph.fx.call_function(aten.relu_.default, (graph.inputs[0],)))


def test_symbolic_arithmetic() -> None:
    graph = graph_of(lambda x: x.reshape(x.shape[0] * 4), torch.ones(3, 4), dynamic_shapes={"x": {0: AUTO}})
    assert [op_name(n) for n in graph.calls() if is_symbolic(n)] == ["sym_size", "mul"]
    builder = GraphBuilder(graph, graph.output)
    assert not is_symbolic(builder.aten.neg(graph.inputs[0]))
