"""Run a graph node by node in eager: how any graph between two passes can be checked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import Target

from txgraph.ir.graph import Graph

Watch = Callable[[Node, Any], Any]
Around = Callable[[int], AbstractContextManager[object]]


class _Interpreter(torch.fx.Interpreter):
    """torch's interpreter, with constants taken from the graph's own store."""

    def __init__(self, graph: Graph, watch: Watch | None, around: Around | None) -> None:
        super().__init__(torch.nn.Module(), graph=graph.fx)
        self.constants = graph.constants
        self.watch, self.around = watch, around
        self.numbers = itertools.count()

    def get_attr(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.constants[str(target)].detach()

    def call_function(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.around is None:
            return super().call_function(target, args, kwargs)
        with self.around(next(self.numbers)):
            return super().call_function(target, args, kwargs)

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        return value if self.watch is None or n.op == "output" else self.watch(n, value)


def interpret(
    graph: Graph, inputs: Sequence[Any], watch: Watch | None = None, around: Around | None = None
) -> tuple[Any, ...]:
    """Run ``graph`` on ``inputs`` in eager; values are freed after their last use.

    Neither autograd nor autocast acts on it: what autocast did to the model is in the graph.

    Args:
        watch: called with each node and its value; what it gives back is the value that others get.
        around: gives, for the number of each operator, what is entered while that operator runs.

    Returns:
        All outputs: mutated values first, then the model's output leaves.
    """
    device = next((t.device.type for t in inputs if isinstance(t, torch.Tensor)), "cpu")
    with torch.no_grad(), torch.autocast(device, enabled=False):
        return tuple(_Interpreter(graph, watch, around).run(*inputs))
