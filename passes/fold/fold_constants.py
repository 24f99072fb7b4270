"""Compute at compile time what does not depend on the inputs.

before:  gather(expand(token_type_ids, ...), 1, slice(position_ids, ...))     arange(16)
after:   a constant
legal:   static sizes; no input, random operator or mutated buffer involved. Views of weights stay views. An
         output is computed at each call: its owner may write to it
pays:    the operators, at each call; declined where the result needs more than ``max_bytes`` and more than
         what it was made from
source:  Aho, Lam, Sethi, Ullman 2006, section 9.4
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch._ops import OpOverload
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, is_impure
from txgraph.ir.aliasing import is_view, reaches_output
from txgraph.rewrite import Pass, PassContext, Rewrite

_METADATA_ONLY = {  # use only the shape, dtype and device of their tensor argument
    torch.ops.aten.new_ones.default,
    torch.ops.aten.new_zeros.default,
    torch.ops.aten.new_full.default,
    torch.ops.aten.ones_like.default,
    torch.ops.aten.zeros_like.default,
    torch.ops.aten.full_like.default,
}


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Evaluate constant expressions.

    Attributes:
        max_bytes: largest result in bytes that may be bigger than what it was made from.
    """

    max_bytes: int = 1 << 20

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        mutated = {m.target for m in graph.mutations if m.kind == "buffer"}
        made_from: dict[Node, frozenset[str]] = {}
        for node in graph.nodes:
            if node.op == "get_attr" and node.target not in mutated:
                made_from[node] = frozenset({str(node.target)})
            elif _is_foldable(node) and all(n in made_from for n in _value_inputs(node)):
                made_from[node] = frozenset().union(*(made_from[n] for n in _value_inputs(node)))
        rewrites = []
        for node in list(made_from):
            wanted = any(user not in made_from or is_view(user) or reaches_output(user) for user in node.users)
            if node.op != "call_function" or is_view(node) or not wanted or reaches_output(node):
                continue
            if self._fits(graph, node, made_from[node]):
                rewrites.append(self._fold(graph, node, made_from[node]))
        return rewrites

    def _fits(self, graph: Graph, node: Node, sources: frozenset[str]) -> bool:
        size: int = node.meta["val"].numel() * node.meta["val"].element_size()
        return size <= max(self.max_bytes, sum(_nbytes(graph.constants[s]) for s in sources))

    def _fold(self, graph: Graph, node: Node, sources: frozenset[str]) -> Rewrite:
        value = _evaluate(graph, node)
        builder = GraphBuilder(graph, node, made_by=self.name)
        constant = builder.constant(f"folded_{node.name}", value, sorted(sources))
        record = Rewrite.of(self.name, [node], [constant])
        node.replace_all_uses_with(constant)
        graph.fx.erase_node(node)
        return record


def _is_foldable(node: Node) -> bool:
    if node.op != "call_function" or not isinstance(node.target, OpOverload) or is_impure(node):
        return False
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):
        return False
    # str: a symbolic size is never folded, nor is its hint looked at
    return all(isinstance(size, int) for size in value.shape) and all(
        isinstance(size, int) for n in node.all_input_nodes for size in getattr(n.meta["val"], "shape", ())
    )


def _value_inputs(node: Node) -> list[Node]:
    return [] if node.target in _METADATA_ONLY else node.all_input_nodes


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _evaluate(graph: Graph, wanted: Node) -> torch.Tensor:
    """The value of a constant node, in eager; each node of its expression is run once."""
    needed, pending = set[Node](), [wanted]
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending += _value_inputs(node)
    known: dict[Node, torch.Tensor] = {}
    with torch.no_grad():
        for node in (n for n in graph.nodes if n in needed):
            if node.op == "get_attr":
                known[node] = graph.constants[str(node.target)]
                continue
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: known[n] if n in known else _like(n))
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]  # an operator
    return known[wanted].clone()


def _like(node: Node) -> torch.Tensor:
    """A tensor of the node's type, for operators that look at nothing else."""
    value = node.meta["val"]
    return torch.empty(value.shape, dtype=value.dtype, device=value.device)
