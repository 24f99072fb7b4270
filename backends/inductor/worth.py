"""Pieces that are not worth a compilation: what stands before the first layer and behind the last one.

Compiling a piece takes Inductor and a C++ compiler a second or two, however small it is. A few operators on values that
are small beside the layers lose next to nothing when they are called one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import Node

from txgraph.backends.pieces import Piece
from txgraph.cost import CostModel, hardware_of
from txgraph.ir import Graph
from txgraph.ir.kernel import operator_path
from txgraph.ir.node import GETITEM
from txgraph.options import Target

CALL_SECONDS = 5e-6  # of one operator, called from Python
LARGEST_LOSS = 0.01  # of the predicted time of the whole graph, for all pieces together


def not_worth_compiling(graph: Graph, pieces: Sequence[Piece], target: Target) -> frozenset[int]:
    """The numbers of pieces that may be run eagerly.

    Those in which there is nothing to compile, and of the others those that lose least, as long as all together lose
    little.
    """
    if target.kind != "cpu":
        return frozenset()
    hardware = hardware_of(target)
    fused, apart = (CostModel(hardware, fuses_elementwise=fuses).seconds for fuses in (True, False))
    nodes = {node.name: node for node in graph.nodes}
    losses: dict[int, float] = {}
    total = 0.0
    for number, piece in enumerate(pieces):
        operators = [nodes[name] for name in piece.names]
        compiled = fused(operators)
        total += compiled
        if piece.like == number and not any(other.like == number for other in pieces if other is not piece):
            losses[number] = apart(operators) + len(operators) * CALL_SECONDS - compiled
    chosen = {number for number in losses if all(_is_called_anyway(nodes[name]) for name in pieces[number].names)}
    lost = 0.0
    for number in sorted(losses.keys() - chosen, key=losses.__getitem__):
        lost += losses[number]
        if lost <= LARGEST_LOSS * total:
            chosen.add(number)
    return frozenset(chosen)


def _is_called_anyway(node: Node) -> bool:
    """Whether compiled code would call the same kernel for an operator, or nothing: of such alone it gains nothing."""
    if node.target in (torch.ops.aten.linear.default, GETITEM, torch.ops.aten.transpose.int):
        return True
    name = operator_path(node)
    return name.startswith("txgraph.") and name.endswith(("_native", "_onednn"))
