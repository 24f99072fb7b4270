"""Write every change of shape as reshape, whatever the layout, and drop the copies made for layout only.

before:  view(x, s)   _unsafe_view(clone(x, contiguous), s)   permute(x, [0, 2, 1])   t(x)
after:   reshape(x, s)                                        transpose(x, 1, 2)      transpose(x, 0, 1)
legal:   always for views: reshape gives the same values for any layout. A contiguous copy is dropped where
         its base is computed by the graph and it is not itself an output
pays:    rules then have one form to match, and no rewrite can leave a view of an unsuitable layout
source:  numpy and torch documentation of reshape: a view where possible, else a copy
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments, type_of
from txgraph.ir.aliasing import copy_is_needed
from txgraph.rewrite import Pass, PassContext, Rewrite

_aten = torch.ops.aten


@dataclass(frozen=True)
class NormalizeViews(Pass):
    """One operator for each kind of view."""

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites = []
        for node in graph.calls():
            builder = GraphBuilder(graph, node, made_by=self.name)
            new = _normal_form(node, builder)
            if new is not None:
                rewrites.append(Rewrite.of(self.name, [node], builder.made))
                node.replace_all_uses_with(new)
                graph.fx.erase_node(node)
        return rewrites


def _normal_form(node: Node, g: GraphBuilder) -> Node | None:
    """The node in normal form; ``None`` if it is in it already."""
    if node.target in (_aten.view.default, _aten._unsafe_view.default):
        return g.aten.reshape(*node.args)
    if node.target is _aten.t.default:
        source, tensor_type = node.args[0], type_of(node)
        assert isinstance(source, Node), "schema: a tensor"
        assert tensor_type is not None, "schema: a tensor"
        return g.aten.transpose.int(source, 0, 1) if tensor_type.rank == 2 else source
    if node.target is _aten.permute.default:
        swapped = _swapped_axes(node)
        return None if swapped is None else g.aten.transpose.int(node.args[0], *swapped)
    if node.target is _aten.clone.default and arguments(node)["memory_format"] is torch.contiguous_format:
        source = node.args[0]
        if isinstance(source, Node) and not copy_is_needed(source, node):
            return source
    return None


def _swapped_axes(node: Node) -> tuple[int, int] | None:
    """The two axes that a permute swaps, if it does just that."""
    tensor_type = type_of(node)
    assert tensor_type is not None, "schema: permute gives a tensor"
    order = [axis % tensor_type.rank for axis in arguments(node)["dims"]]
    moved = [axis for axis, source in enumerate(order) if axis != source]
    return (moved[0], moved[1]) if len(moved) == 2 else None
