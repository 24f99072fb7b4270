"""Compute at compile time what does not depend on the inputs.

before:  gather(expand(token_type_ids, ...), 1, slice(position_ids, ...))     arange(16)
after:   a constant
legal:   static sizes; no input, random operator or mutated buffer involved. Views of weights stay views, and
         fake-quantized ones what they are, for ``lower-fake-quantization``. An output is computed at each call: its
         owner may write to it
pays:    the operators, at each call; declined where the result needs more than ``max_bytes`` and more than
         what it was made from
source:  Aho, Lam, Sethi, Ullman 2006, section 9.4
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder
from txgraph.ir.aliasing import is_view, reaches_output
from txgraph.ir.known_values import KnownValues, value_inputs
from txgraph.rewrite import Pass, PassContext, Rewrite, replace

_KEPT = torch.ops.txgraph.fake_quantize_weight.default  # its integers are worth more than its floats


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Evaluate constant expressions.

    Attributes:
        max_bytes: largest result in bytes that may be bigger than what it was made from.
    """

    max_bytes: int = 1 << 20

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        known = KnownValues(graph)
        kept = _kept(graph)
        calls = [n for n in graph.calls() if n in known and n not in kept and not is_view(n) and not reaches_output(n)]
        wanted = [
            n for n in calls if any(u not in known or u in kept or is_view(u) or reaches_output(u) for u in n.users)
        ]
        rewrites = []
        for node in wanted:
            needed = _expression(node)
            sources = sorted({str(n.target) for n in needed if n.op == "get_attr"})
            if self._fits(graph, node, sources) and context.permits(self, node):
                g = GraphBuilder(graph, node, made_by=self.name)
                constant = g.constant(f"folded_{node.name}", _evaluate(graph, needed), sources)
                rewrites.append(replace(self.name, {node: constant}, g.made))
        return rewrites

    def _fits(self, graph: Graph, node: Node, sources: list[str]) -> bool:
        size: int = node.meta["val"].numel() * node.meta["val"].element_size()
        return size <= max(self.max_bytes, sum(_nbytes(graph.constants[s]) for s in sources))


def _kept(graph: Graph) -> set[Node]:
    """Weights that a later pass quantizes, and what is made from them."""
    kept = set[Node]()
    for node in graph.calls():
        if node.target is _KEPT or any(source in kept for source in node.all_input_nodes):
            kept.add(node)
    return kept


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _expression(wanted: Node) -> list[Node]:
    """The nodes that a value is computed from, and itself as the last, in topological order."""
    needed, pending = set[Node](), [wanted]
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending += value_inputs(node)
    return sorted(needed)


def _evaluate(graph: Graph, expression: Sequence[Node]) -> torch.Tensor:
    """The value of the last node, in eager; each node is run once."""
    known: dict[Node, torch.Tensor] = {}
    with torch.no_grad():
        for node in expression:
            if node.op == "get_attr":
                known[node] = graph.constants[str(node.target)]
                continue
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: known[n] if n in known else _like(n))
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]  # an operator
    return known[expression[-1]].clone()


def _like(node: Node) -> torch.Tensor:
    """A tensor of the node's type, for operators that look at nothing else."""
    value = node.meta["val"]
    return torch.empty(value.shape, dtype=value.dtype, device=value.device)
