"""Run a graph node by node in eager: how any graph between two passes can be checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx.node import Target

from txgraph.ir.graph import Graph


class _Interpreter(torch.fx.Interpreter):
    """torch's interpreter, with constants taken from the graph's own store."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(torch.nn.Module(), graph=graph.fx)
        self.constants = graph.constants

    def get_attr(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.constants[str(target)].detach()


def interpret(graph: Graph, inputs: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """Run ``graph`` on ``inputs`` in eager; values are freed after their last use.

    Neither autograd nor autocast acts on it: what autocast did to the model is in the graph.

    Returns:
        All outputs: mutated values first, then the model's output leaves.
    """
    device = next((t.device.type for t in inputs), "cpu")
    with torch.no_grad(), torch.autocast(device, enabled=False):
        return tuple(_Interpreter(graph).run(*inputs))
