"""Every graph between two passes runs in eager: bit for bit what the model computes."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from tests.small import MLP, graph_of, module
from tests.zoo import ZOO
from txgraph.ir import interpret
from txgraph.ir.graph import output_leaves

X = torch.ones(2, 4)


@pytest.mark.parametrize("name", ["llama-eager", "t5-sdpa"])
def test_equals_eager(name: str) -> None:
    architecture = ZOO[name]
    model, inputs = architecture.model(), architecture.inputs(2, 7)
    graph = graph_of(model, **inputs)
    with torch.no_grad():
        expected = pytree.tree_leaves(model(**inputs))
    results = output_leaves(graph, interpret(graph, list(inputs.values())))
    assert len(results) == len(expected)
    assert all(map(torch.equal, results, expected))


def test_a_dynamic_graph_runs_for_other_sizes() -> None:
    model = MLP()
    graph = graph_of(model, X, dynamic_shapes={"x": {0: torch.export.Dim.AUTO}})
    for rows in (2, 3, 50):
        x = torch.randn(rows, 4)
        assert torch.equal(interpret(graph, [x])[0], model(x))


def test_no_autograd_graph_is_recorded() -> None:
    graph = graph_of(MLP(), X)
    (result,) = interpret(graph, [X.clone().requires_grad_()])
    assert not result.requires_grad


def test_weights_are_read_at_each_run() -> None:
    model = MLP()
    graph = graph_of(model, X)
    with torch.no_grad():
        model.down.weight.mul_(3)
    assert torch.equal(interpret(graph, [X])[0], model(X))


def test_plain_outputs() -> None:
    graph = graph_of(lambda x: (x + 1, 3, None, "text"), X)
    assert interpret(graph, [X])[1:] == (3, None, "text")


def test_a_weight_as_output_cannot_require_grad() -> None:
    model = module(lambda x: model.w, w=torch.nn.Parameter(torch.ones(2)))
    (result,) = interpret(graph_of(model, X), [X])
    assert not result.requires_grad
    assert result.data_ptr() == model.w.data_ptr()
