"""A size that only a call's values decide. This test tells when torch's private names for symbols move."""

from __future__ import annotations

import torch
from torch.export import Dim

from tests.small import graph_of
from txgraph.ir import Graph
from txgraph.ir.node import same_size
from txgraph.ir.symbols import new_size


def doubled(x: torch.Tensor) -> torch.Tensor:
    return x + x


def static() -> Graph:
    return graph_of(doubled, torch.ones(4, 5))


def dynamic() -> Graph:
    return graph_of(doubled, torch.ones(4, 5), dynamic_shapes=({0: Dim("B", max=32)},))


def test_a_size_is_symbolic_with_a_name_a_range_and_a_hint() -> None:
    for graph in (static(), dynamic()):
        before = dict(graph.symbols)
        size = new_size(graph, "N", "tokens", 17)
        assert isinstance(size, torch.SymInt)
        assert graph.symbols == {**before, str(size): "N"}
        assert graph.ranges[str(size)] == (2, None)
        assert size.node.hint == 17


def test_it_is_one_dimension_of_many_values() -> None:
    """Sums and products of tensors with that size need no guard, and it is equal to no other size."""
    graph = static()
    size, other = new_size(graph, "N", "tokens", 17), new_size(graph, "M", "others", 17)
    fake = graph.inputs[0].meta["val"]
    made = fake.new_empty(size, 5) + fake.new_empty(size, 1)
    assert same_size(made.shape[0], size)
    assert not same_size(size, other)
    assert not same_size(size, 17)
