"""Weights that are mostly zeros: how they look, and the copies of what is not zero that the sparse kernel reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.backends.kernels.sparse_linear import GROUPS, WIDEST, listed, pack
from txgraph.ir import Graph, GraphBuilder
from txgraph.ir.linears import Linears, frozen_weight, names_of
from txgraph.ir.zeros import count_nonzero, is_two_of_four, nonzero_percent

_ZEROS_THAT_PAY = 1.3  # numbers that groups of four rows may store for each that is not zero: what one costs alone
_DENSE = 25  # percent: of longer lists, that much less of the input is kept in the cache


@dataclass(frozen=True)
class Zeros:
    """How much of the weights of one input is not zero, and in which groups of rows that is listed.

    Attributes:
        percent: about, see :func:`txgraph.ir.zeros.nonzero_percent`. group: one of the kernel's.
    """

    percent: int
    group: int

    @classmethod
    def of(cls, weights: Sequence[torch.Tensor]) -> Zeros | None:
        """Of float32 weights ``[N, K]``; ``None`` where too few are zeros."""
        percent = nonzero_percent(weights)
        if percent is None:
            return None
        one, four = (sum(listed(weight, group) for weight in weights) for group in GROUPS)
        return cls(percent, GROUPS[1] if four <= _ZEROS_THAT_PAY * one else GROUPS[0])

    @property
    def block(self) -> int:
        """Columns of a block of lists."""
        return WIDEST // 2 if self.percent > _DENSE else WIDEST

    def __str__(self) -> str:
        return f"{self.percent} % not zero" + (f" in groups of {self.group} rows" if self.group > 1 else "")


class PackedWeights:
    """What is not zero of a graph's weights: packed once, and a constant once, whichever linears read it."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._packed: dict[tuple[str, bool, Zeros], torch.Tensor] = {}
        self._nodes: dict[tuple[str, bool, Zeros], Node] = {}

    def tensor(self, weight: Node, zeros: Zeros) -> torch.Tensor:
        """The packed weight."""
        key = self._key(weight, zeros)
        if key in self._nodes:
            return self._graph.constants[str(self._nodes[key].target)]
        if key not in self._packed:
            held = frozen_weight(self._graph, weight)
            assert held is not None, "its zeros were counted"
            self._packed[key] = pack(held, zeros.group, zeros.block)
        return self._packed[key]

    def node(self, builder: GraphBuilder, weight: Node, zeros: Zeros) -> Node:
        """The same as a constant of the graph."""
        key = self._key(weight, zeros)
        if key not in self._nodes:
            name, *_ = key
            self._nodes[key] = builder.constant(f"{name}_nonzero", self.tensor(weight, zeros), [name])
        return self._nodes[key]

    def release(self) -> None:
        """Forget those that are no constants."""
        self._packed.clear()

    def _key(self, weight: Node, zeros: Zeros) -> tuple[str, bool, Zeros]:
        (name,) = names_of([weight])
        return name, weight.op != "get_attr", zeros


def describe_weights(graph: Graph, nodes: Sequence[Node]) -> str:
    """Of all weights of linears: the name, or what it was folded from, and how much of it is not zero."""
    found: dict[str, str] = {}
    for node in nodes:
        linears = Linears.of(node)
        weights = None if linears is None else linears.frozen_weights(graph)
        if linears is not None and weights is not None:
            for name, weight in zip(names_of(linears.weights), weights, strict=True):
                if name not in found:
                    pattern = ", two of four" if is_two_of_four(weight) else ""
                    origin = " and ".join(sorted(graph.constants.origins([name])))
                    found[name] = f"{origin} {count_nonzero(weight) / max(weight.numel(), 1):.1%}{pattern}"
    return ", ".join(found.values())


def left_dense(graph: Graph, kind: str) -> dict[str, str]:
    """For the report: linears of weights that are mostly zeros, which no sparse kernel takes, each with the reason.

    Args:
        kind: of the device that is compiled for.
    """
    found: dict[tuple[str, str], list[Node]] = {}
    for node in graph.calls():
        linears = Linears.of(node)
        weights = None if linears is None else linears.frozen_weights(graph)
        if not weights or (weights[0].dtype is torch.float32 and kind == "cpu"):
            continue
        percent = nonzero_percent(weights)
        if percent is not None:
            dtype = str(weights[0].dtype).removeprefix("torch.")
            size = "+".join("x".join(map(str, weight.shape)) for weight in weights)
            found.setdefault((f"linear of {dtype} {size}, {percent} % not zero", dtype), []).append(node)
    reason = "dense: the sparse kernel is for float32 on CPUs"
    return {
        what: f"{reason}, this is {dtype} on {kind}; not zero: {describe_weights(graph, nodes)}"
        for (what, dtype), nodes in found.items()
    }
