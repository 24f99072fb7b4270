"""Write every change of shape as reshape, whatever the layout, and drop the copies made for layout only.

before:  view(x, s)  _unsafe_view(clone(x, contiguous), s)  permute(x, [0, 2, 1])  t(x)      transpose(permute(x))
after:   reshape(x, s)                                      transpose(x, 1, 2)     transpose(x, 0, 1)  permute(x)
legal:   always for views: reshape gives the same values for any layout. A contiguous copy is dropped where
         its base is computed by the graph and it is not itself an output
pays:    rules then have one form to match, and no rewrite can leave a view of an unsuitable layout
source:  numpy and torch documentation of reshape: a view where possible, else a copy
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, arguments, type_of
from txgraph.ir.aliasing import copy_is_needed
from txgraph.rewrite import NodePass

_aten = torch.ops.aten


@dataclass(frozen=True)
class NormalizeViews(NodePass):
    """One operator for each kind of view."""

    def rewrite(self, node: Node, g: GraphBuilder) -> Node | None:
        if node.target in (_aten.view.default, _aten._unsafe_view.default):
            return g.aten.reshape(*node.args)
        order = _order(node)
        if order is not None:
            return _permuted(node, order, g)
        if node.target is _aten.clone.default and arguments(node)["memory_format"] is torch.contiguous_format:
            source = node.args[0]
            if isinstance(source, Node) and not copy_is_needed(source, node):
                return source
        return None


def _order(node: Any) -> list[int] | None:
    """For each axis of a permutation's result the axis of its source; ``None`` for any other value."""
    tensor_type = type_of(node) if isinstance(node, Node) else None
    if tensor_type is None or node.target not in _PERMUTATIONS:
        return None
    named, order = arguments(node), list(range(tensor_type.rank))
    if node.target is _aten.permute.default:
        return [axis % tensor_type.rank for axis in named["dims"]]
    if tensor_type.rank > 1:
        a, b = (0, 1) if node.target is _aten.t.default else (named["dim0"], named["dim1"])
        order[a], order[b] = order[b], order[a]
    return order


def _permuted(node: Node, order: list[int], g: GraphBuilder) -> Node | None:
    """A permutation, with those that it is applied to; ``None`` if it is in normal form."""
    source: Any = node.args[0]
    below = _order(source)
    while below is not None:
        order, source = [below[axis] for axis in order], source.args[0]
        below = _order(source)
    moved = [axis for axis, source_axis in enumerate(order) if axis != source_axis]
    if not moved:
        return source  # type: ignore[no-any-return]  # schema: a tensor
    target, args = (_aten.transpose.int, moved) if len(moved) == 2 else (_aten.permute.default, [order])
    return None if (node.target, node.args) == (target, (source, *args)) else g.call(target, source, *args)


_PERMUTATIONS = (_aten.transpose.int, _aten.permute.default, _aten.t.default)
