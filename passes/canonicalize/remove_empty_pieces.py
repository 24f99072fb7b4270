"""Do not concatenate what is empty, such as a cache before the first token.

before:  cat([empty, x, y], dim)    cat([empty, x], dim)        empty: no elements along dim, or [0]
after:   cat([x, y], dim)           x
legal:   the empty pieces have the dtype of the result; a single piece left is computed by the graph, for the result of
         cat shares no memory with its pieces
pays:    a read and a write of x (bytes) where one piece is left
source:  torch documentation of cat: pieces of shape [0] are skipped
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, arguments, type_of
from txgraph.ir.aliasing import copy_is_needed
from txgraph.rewrite import NodePass, Reject


@dataclass(frozen=True)
class RemoveEmptyPieces(NodePass):
    """Leave out the pieces that add nothing."""

    def rewrite(self, node: Node, g: GraphBuilder) -> Node | Reject | None:
        if node.target is not torch.ops.aten.cat.default:
            return None
        named = arguments(node)
        kept: list[Node] = [piece for piece in named["tensors"] if not _is_empty(piece, named["dim"])]
        if len(kept) == len(named["tensors"]) or not kept:
            return None
        if any(type_of(piece).dtype != type_of(node).dtype for piece in kept):  # type: ignore[union-attr]
            return Reject("the empty pieces take part in the dtype of the result")
        if len(kept) > 1:
            return g.aten.cat.default(kept, named["dim"])
        if copy_is_needed(kept[0], node):
            return g.aten.clone.default(kept[0], memory_format=torch.contiguous_format)
        return kept[0]


def _is_empty(piece: Node, axis: int) -> bool:
    shape = type_of(piece).shape  # type: ignore[union-attr]  # schema: tensors
    return tuple(shape) == (0,) or (isinstance(shape[axis], int) and shape[axis] == 0)
