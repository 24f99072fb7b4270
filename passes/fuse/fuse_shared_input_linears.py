"""Join linears that read the same input, such as query, key and value.

before:  linear(x, wq, bq)   linear(x, wk, bk)   linear(x, wv, bv)          x: [..., K]  wi: [Ni, K]  bi: [Ni]
after:   txgraph::linears(x, [wq, wk, wv], [bq, bk, bv])[i]
legal:   weights and biases are constants that no call changes. Their values are not used: a backend may read them where
         they are, or join them as it likes
pays:    x is read once, and one larger matrix product keeps the machine busier than several small ones
source:  Shoeybi et al. 2019, section 3 (joint QKV projection)
"""

from __future__ import annotations

import operator
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments
from txgraph.rewrite import Pass, PassContext, Rewrite, replace


@dataclass(frozen=True)
class FuseSharedInputLinears(Pass):
    """One operator for all projections of a value."""

    @property
    def pays(self) -> bool:
        return True

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        groups: dict[tuple[object, torch.dtype], list[Node]] = defaultdict(list)
        for node in graph.calls():
            weight = _owned_weight(graph, node)
            if weight is not None:
                groups[node.args[0], weight.dtype].append(node)
        return [
            self._join(graph, group) for group in groups.values() if len(group) > 1 and context.permits(self, group[0])
        ]

    def _join(self, graph: Graph, group: list[Node]) -> Rewrite:
        builder = GraphBuilder(graph, group[0], like=group, made_by=self.name)
        named = [arguments(node) for node in group]
        weights, biases = ([a[name] for a in named] for name in ("weight", "bias"))
        for constant in (*weights, *biases):
            if constant is not None and constant > group[0]:
                group[0].prepend(constant)
        together = builder.txgraph.linears(named[0]["input"], weights, biases)
        pieces = [builder.call(operator.getitem, together, at) for at in range(len(group))]
        return replace(self.name, dict(zip(group, pieces, strict=True)), builder.made)


def _owned_weight(graph: Graph, node: Node) -> torch.Tensor | None:
    """The weight of a linear whose weight and bias are constants that no call changes, one value per output."""
    if node.target is not torch.ops.aten.linear.default:
        return None
    named = arguments(node)
    weight, bias = graph.frozen(named["weight"]), graph.frozen(named["bias"])
    if weight is None or weight.ndim != 2:
        return None
    whole = named["bias"] is None or (bias is not None and bias.shape == weight.shape[:1])
    return weight if whole else None
