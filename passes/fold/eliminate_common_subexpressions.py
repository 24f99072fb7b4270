"""Compute equal expressions once.

before:  a = f(x); b = f(x)
after:   a = f(x), used for both
legal:   same operator, same arguments; not random, not impure; not both outputs, which would then share memory
pays:    the second operator
source:  Aho, Lam, Sethi, Ullman 2006, section 9.1.4
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from txgraph.ir import Graph, is_impure
from txgraph.ir.aliasing import reaches_output
from txgraph.rewrite import Pass, PassContext, Rewrite, replace


@dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Merge nodes that compute the same value."""

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        first: dict[Any, Node] = {}
        rewrites = []
        for node in list(graph.nodes):
            if node.op not in ("call_function", "get_attr") or is_impure(node):
                continue
            kept = first.setdefault((node.target, _key(node.args), _key(node.kwargs)), node)
            if kept is node or (reaches_output(node) and reaches_output(kept)) or not context.permits(self, node):
                continue
            if node.op == "call_function":
                rewrites.append(replace(self.name, {node: kept}))
            else:
                node.replace_all_uses_with(kept)
                graph.fx.erase_node(node)
        return rewrites


def _key(value: Any) -> Any:
    """A hashable key, equal only for equal values of equal types (1, 1.0 and True differ, as do 0.0 and -0.0)."""
    if isinstance(value, Node):
        return value
    if isinstance(value, list | tuple):
        return (type(value).__name__, *(_key(v) for v in value))
    if isinstance(value, dict):
        return tuple((k, _key(v)) for k, v in sorted(value.items()))
    if isinstance(value, slice):
        return ("slice", _key(value.start), _key(value.stop), _key(value.step))
    return (type(value).__name__, repr(value))
