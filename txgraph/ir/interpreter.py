"""Run a graph node by node in eager: how any graph between two passes can be checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import Target

from txgraph.ir.graph import Graph

Watch = Callable[[Node, Any], Any]


class _Interpreter(torch.fx.Interpreter):
    """torch's interpreter, with constants taken from the graph's own store."""

    def __init__(self, graph: Graph, watch: Watch | None) -> None:
        super().__init__(torch.nn.Module(), graph=graph.fx)
        self.constants = graph.constants
        self.watch = watch

    def get_attr(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.constants[str(target)].detach()

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        return value if self.watch is None or n.op == "output" else self.watch(n, value)


def interpret(graph: Graph, inputs: Sequence[Any], watch: Watch | None = None) -> tuple[Any, ...]:
    """Run ``graph`` on ``inputs`` in eager; values are freed after their last use.

    Neither autograd nor autocast acts on it: what autocast did to the model is in the graph.

    Args:
        watch: called with each node and its value; what it gives back is the value that others get.

    Returns:
        All outputs: mutated values first, then the model's output leaves.
    """
    device = next((t.device.type for t in inputs if isinstance(t, torch.Tensor)), "cpu")
    with torch.no_grad(), torch.autocast(device, enabled=False):
        return tuple(_Interpreter(graph, watch).run(*inputs))
