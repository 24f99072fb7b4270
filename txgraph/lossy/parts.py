"""Single lossy rewrites, judged as what they are compiled to, on the values that flow into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import Graph, extract, interpret
from txgraph.ir.subgraph import kind_of
from txgraph.pipeline import PassResult
from txgraph.rewrite import Rewrite
from txgraph.verify import check_gates
from txgraph.verify.oracle import in_float64


@dataclass(frozen=True)
class Part:
    """What one rewrite made.

    Attributes:
        graph: of its own. inputs: that it gets in a call. kind: equal for parts that are equal but for their values.
    """

    rewrite: Rewrite
    graph: Graph
    inputs: tuple[Any, ...]
    kind: str

    def reason(self, run: Callable[[Sequence[torch.Tensor]], Sequence[Any]]) -> str:
        """The gates that a compiled form breaks; an empty text if all hold.

        What it stands for is the definition of its operators, in eager and in float64.
        """
        eager, oracle = interpret(self.graph, self.inputs), in_float64(self.graph, self.inputs)
        return "; ".join(str(gate) for gate in check_gates(run(self.inputs), eager, oracle) if not gate.passed)


def parts_of(result: PassResult, tensors: Sequence[torch.Tensor]) -> Iterator[Part]:
    """What a pass made, rewrite by rewrite, with the values of one call."""
    calls = {node.name for node in result.after.calls()}
    found = []
    for rewrite in result.rewrites:
        names = [name for name in rewrite.made if name in calls]
        graph = extract(result.after, names, outputs=[new for _, new in rewrite.values])
        found.append((rewrite, graph, kind_of(result.after, names)))
    wanted = {node.name for _, graph, _ in found for node in graph.inputs}
    held: dict[str, Any] = {}

    def hold(node: Node, value: Any) -> Any:
        if node.name in wanted:
            held[node.name] = value
        return value

    interpret(result.after, tensors, hold)
    for rewrite, graph, kind in found:
        yield Part(rewrite, graph, tuple(held[node.name] for node in graph.inputs), kind)
