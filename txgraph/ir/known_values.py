"""Which values are known before any call, because they depend on constants alone."""

from __future__ import annotations

import torch
from torch._ops import OpOverload
from torch.fx import Node

from txgraph.ir.graph import Graph
from txgraph.ir.node import is_impure, packet_of

_aten = torch.ops.aten
_UNINITIALIZED = {_aten.empty, _aten.empty_like, _aten.new_empty, _aten.empty_strided, _aten.empty_permuted}
_METADATA_ONLY = {  # use only the shape, dtype and device of their tensor argument
    _aten.new_ones,
    _aten.new_zeros,
    _aten.new_full,
    _aten.new_empty,
    _aten.ones_like,
    _aten.zeros_like,
    _aten.full_like,
    _aten.empty_like,
}


class KnownValues:
    """Tells for the values of one graph whether they are known; looks at each node once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[Node, bool] = {}

    def __contains__(self, node: Node) -> bool:
        pending = [node]
        while pending:  # no recursion: a graph may be deeper than Python's stack
            each = pending[-1]
            unseen = [] if each in self._known else self._unseen(each)
            if unseen:
                pending += unseen
            else:
                pending.pop()
                if each not in self._known:
                    self._known[each] = self._is_known(each)
        return self._known[node]

    def _unseen(self, node: Node) -> list[Node]:
        """A source that must be looked at first, if there is one."""
        for source in value_inputs(node) if _is_computable(node) else []:
            if source not in self._known:
                return [source]
            if not self._known[source]:
                return []
        return []

    def _is_known(self, node: Node) -> bool:
        if node.op == "get_attr":
            return not self._graph.is_written(node.target)
        return _is_computable(node) and all(self._known[source] for source in value_inputs(node))


def value_inputs(node: Node) -> list[Node]:
    """The nodes whose values an operator reads; of others it may read the shape."""
    return [] if packet_of(node) in _METADATA_ONLY else node.all_input_nodes


def _is_computable(node: Node) -> bool:
    """Whether an operator gives one tensor, the same at each call, if what it reads is the same."""
    if node.op != "call_function" or not isinstance(node.target, OpOverload) or is_impure(node):
        return False
    if packet_of(node) in _UNINITIALIZED:
        return False
    values = [node.meta["val"], *(n.meta["val"] for n in node.all_input_nodes)]
    if not isinstance(values[0], torch.Tensor):
        return False
    # int: a symbolic size is not known, nor is its hint looked at
    return all(isinstance(size, int) for value in values for size in getattr(value, "shape", ()))
