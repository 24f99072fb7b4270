"""A pass that quantizes every linear, as plainly as it can be: for tests of what comes after it."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph import Pass, PassContext, Rewrite
from txgraph.backends.calls.linears import Linears
from txgraph.ir import Graph, GraphBuilder
from txgraph.ir.quantized import quantize_weight, quantize_weight_grouped
from txgraph.rewrite.base import replace


@dataclass(frozen=True)
class QuantizeLinears(Pass):
    """Linears with constant weights become int8 ones, or ones with weights of some bits.

    Attributes:
        bits: of the weights alone; ``None``: weights and inputs in int8.
    """

    name = "quantize-linears"
    bits: int | None = None
    group: int = 32

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites = []
        for node in graph.calls():
            linears = Linears.of(node)
            tensors = [] if linears is None else [graph.constant(weight) for weight in linears.weights]
            held = [weight for weight in tensors if weight is not None]
            if linears is not None and held and len(held) == len(tensors):
                g = GraphBuilder(graph, node, made_by=self.name)
                results = self._quantized(g, linears, held)
                pieces = [node] if isinstance(node.meta["val"], torch.Tensor) else list(node.users)
                places = [0 if piece is node else piece.args[1] for piece in pieces]
                values = [g.call(operator.getitem, results, at) for at in places]
                rewrites.append(replace(self.name, dict(zip(pieces, values, strict=True)), g.made))
        graph.eliminate_dead_code()
        return rewrites

    def _quantized(self, g: GraphBuilder, linears: Linears, held: list[torch.Tensor]) -> Node:
        names = [str(weight.target) for weight in linears.weights]
        pairs = [
            quantize_weight(w) if self.bits is None else quantize_weight_grouped(w, self.bits, self.group) for w in held
        ]
        weights = [g.constant(f"{n}_values", pair[0], [n]) for n, pair in zip(names, pairs, strict=True)]
        scales = [g.constant(f"{n}_scales", pair[1], [n]) for n, pair in zip(names, pairs, strict=True)]
        rest = (weights, scales, list(linears.biases), linears.activation)
        if self.bits is not None:
            return g.txgraph.weight_only_linears(linears.input, *rest, self.bits, self.group)
        rows = g.txgraph.quantize_rows(linears.input, None)
        return g.txgraph.int8_linears(*(g.call(operator.getitem, rows, at) for at in range(2)), *rest)
