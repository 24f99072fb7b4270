"""What depends on constants alone is known before any call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.helpers import Program
from tests.small import graph_of, traced
from txgraph.ir import Graph
from txgraph.ir.known_values import KnownValues

Tensor = torch.Tensor
X, W = torch.ones(2, 4), torch.ones(4)


def known(graph: Graph) -> set[str]:
    values = KnownValues(graph)
    return {node.name for node in graph.nodes if node in values}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, w: x * w.exp().sin(), {"w", "exp", "sin"}),
        (lambda x, w: (x + w).exp(), {"w"}),
        (lambda x, w: x + torch.ones_like(x).exp(), {"ones_like", "exp"}),
        (lambda x, w: x + torch.arange(4).neg(), {"arange", "neg"}),
        (lambda x, w: x * torch.rand_like(w).exp(), {"w"}),
        (lambda x, w: x * torch.empty_like(w).exp() + torch.empty(4).exp(), {"w"}),
        (lambda x, w: x * torch.stack([w, x[0]]).exp() * torch.stack([w, w]), {"w", "stack_1"}),
    ],
)
def test_expressions(function: Callable[..., Tensor], expected: set[str]) -> None:
    assert known(traced(function, X, w=W)) == expected


def test_sizes_that_vary_are_not_known() -> None:
    graph = graph_of(lambda x: torch.arange(x.shape[0]).neg(), X, dynamic_shapes=({0: Dim("B")},))
    assert known(graph) == set()


def test_a_buffer_that_each_call_writes_to_is_not_known() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))
            self.register_buffer("step", torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            y = x + self.seen.exp() + self.step.exp()
            self.seen.add_(self.step)
            return y

    graph = graph_of(Counting(), X)
    assert known(graph) == {"step", "exp_1"}
    frozen = {str(n.target): graph.frozen(n) is not None for n in graph.nodes if n.op == "get_attr"}
    assert frozen == {"seen": False, "step": True}
    assert graph.frozen(graph.inputs[0]) is None


@pytest.mark.parametrize("depth", [10_000])
def test_deep_graphs_are_looked_at_once(depth: int) -> None:
    program = Program()
    known_end, unknown_end = program.constant(W), program.input(W)
    for _ in range(depth):
        known_end = program.call(torch.ops.aten.neg.default, known_end)
        unknown_end = program.call(torch.ops.aten.neg.default, unknown_end)
    values = KnownValues(program.graph)
    assert known_end in values
    assert unknown_end not in values
    assert all((node in values) == (node.all_input_nodes[0] in values) for node in program.graph.calls())
