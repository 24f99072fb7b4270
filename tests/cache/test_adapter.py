"""Graphs survive their pickles, and this tells when a private name of torch that pickles them moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

import txgraph
from tests.small import MLP, graph_of, traced
from txgraph.cache.adapter import dumps, loads
from txgraph.ir import Graph, check_spec, interpret, provenance_of, type_of


def there_and_back(value: Any) -> Any:
    tensors: list[torch.Tensor] = []

    def place(tensor: torch.Tensor) -> int:
        tensors.append(tensor)
        return len(tensors) - 1

    return loads(dumps(value, place), tensors.__getitem__)


def described(graph: Graph) -> list[tuple[Any, ...]]:
    """All that is read of nodes, as texts."""
    return [
        (n.name, n.op, str(n.target), str(n.args), str(n.kwargs), type_of(n), provenance_of(n), str(n.meta.get("val")))
        for n in graph.nodes
    ]


def slices(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
    first, second = F.linear(x, w).split([2, 3], -1)
    return first[:, 1:], torch.cat([first, second, x[:, ::2, :3].repeat(1, 2, 1)[:, :3]], -1)


def test_a_graph() -> None:
    graph = traced(slices, torch.randn(2, 3, 4), w=torch.randn(5, 4))
    again = there_and_back(graph)
    check_spec(again)
    assert [str(each) for each in described(again)] == [str(each) for each in described(graph)]
    assert again.constants["w"] is graph.constants["w"]
    x = torch.randn(2, 3, 4)
    for ours, theirs in zip(interpret(again, [x]), interpret(graph, [x]), strict=True):
        assert torch.equal(ours, theirs)


def test_symbolic_sizes() -> None:
    """They keep their names and ranges, and passes can go on with them."""
    graph = graph_of(MLP(), torch.randn(3, 4), dynamic_shapes={"x": {0: Dim("B", min=2, max=64)}})
    again = there_and_back(graph)
    check_spec(again)
    assert str(again) == str(graph)
    assert (again.symbols, again.ranges) == (graph.symbols, graph.ranges)
    after, records = txgraph.default_pipeline().run(again, txgraph.PassContext())
    assert {record.name for record in records if record.status == "applied"} >= {"remove-identities"}
    x = torch.randn(7, 4)
    torch.testing.assert_close(interpret(after, [x])[0], interpret(graph, [x])[0])


def test_two_graphs_share_their_sizes() -> None:
    graph = graph_of(MLP(), torch.randn(3, 4), dynamic_shapes={"x": {0: Dim("B", min=2, max=64)}})
    first, second = there_and_back((graph, graph.copy()))
    (a,), (b,) = first.inputs, second.inputs
    assert a.meta["val"].shape[0].node.shape_env is b.meta["val"].shape[0].node.shape_env
    assert a.meta["val"].fake_mode is b.meta["val"].fake_mode


def test_a_node_called_like_a_builtin_keeps_its_name() -> None:
    graph = traced(lambda input: input + 1, torch.ones(2))
    assert [n.name for n in there_and_back(graph).inputs] == [n.name for n in graph.inputs]


def test_what_cannot_be_pickled() -> None:
    with pytest.raises(Exception, match="lambda"):
        there_and_back(lambda: 1)
