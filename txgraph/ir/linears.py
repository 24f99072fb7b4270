"""The linears of a graph: one, one with an activation, or several of one input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir.graph import Graph
from txgraph.ir.node import arguments


@dataclass(frozen=True)
class Linears:
    """What a node computes: the linears of one input.

    Attributes:
        weights: each ``[N, K]``, perhaps the view of a constant. biases: for each weight ``[N]`` or ``None``.
    """

    input: Node
    weights: tuple[Node, ...]
    biases: tuple[Node | None, ...]
    activation: str

    @classmethod
    def of(cls, node: Node) -> Linears | None:
        """``None`` for a node that is something else."""
        if node.target is torch.ops.txgraph.linears.default:
            named = arguments(node)
            return cls(named["input"], tuple(named["weights"]), tuple(named["biases"]), "")
        if node.target in (torch.ops.aten.linear.default, torch.ops.txgraph.linear_activation.default):
            named = arguments(node)
            return cls(named["input"], (named["weight"],), (named["bias"],), named.get("activation") or "")
        return None

    def frozen_weights(self, graph: Graph) -> list[torch.Tensor] | None:
        """The weights ``[N, K]``, views where the model stores ``[K, N]``; ``None`` if one is no frozen constant."""
        found = [frozen_weight(graph, weight) for weight in self.weights]
        return None if any(weight is None for weight in found) else [w for w in found if w is not None]


def frozen_weight(graph: Graph, value: object) -> torch.Tensor | None:
    """A constant with two axes that no call changes, or the transpose of one: a view, no copy."""
    turned = isinstance(value, Node) and value.target is torch.ops.aten.transpose.int
    stored = graph.frozen(value.args[0] if turned else value)  # type: ignore[attr-defined]
    if stored is None or stored.ndim != 2:
        return None
    return stored.t() if turned else stored


def stored_in(weight: Node) -> Node:
    """The constant that a weight is, or is the transpose of."""
    source = weight.args[0] if weight.target is torch.ops.aten.transpose.int else weight
    assert isinstance(source, Node), "a constant"
    return source


def results_of(node: Node) -> list[tuple[int, Node]]:
    """The values of a node that computes linears, with their places: itself, or the pieces that are used."""
    if isinstance(node.meta["val"], torch.Tensor):
        return [(0, node)]
    return [(at, piece) for piece in node.users if isinstance(at := piece.args[1], int)]


def names_of(weights: Sequence[Node]) -> list[str]:
    """Names of the constants that weights are, or are the transposes of."""
    return [str(stored_in(weight).target) for weight in weights]
