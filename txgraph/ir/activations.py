"""Activations as nodes of a graph."""

from __future__ import annotations

from torch.fx import Node

from txgraph.ir.builder import GraphBuilder
from txgraph.ir.ops import ACTIVATIONS


def activate(builder: GraphBuilder, value: Node, name: str) -> Node:
    """An activation of ``ir.ops.ACTIVATIONS``, as an ATen operator."""
    assert name in ACTIVATIONS, "checked by the operator's own definition"
    if name == "quick_gelu":
        return builder.aten.mul(value, builder.aten.sigmoid(builder.aten.mul(value, 1.702)))
    if name.startswith("gelu"):
        return builder.aten.gelu(value, approximate="tanh" if name == "gelu_tanh" else "none")
    result: Node = getattr(builder.aten, name)(value)
    return result
