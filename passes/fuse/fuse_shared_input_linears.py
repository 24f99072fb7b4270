"""Join linears that read the same input, such as query, key and value.

before:  linear(x, wq, bq)   linear(x, wk, bk)   linear(x, wv, bv)          x: [..., K]  wi: [Ni, K]
after:   split(linear(x, cat(wq, wk, wv), cat(bq, bk, bv)), [Nq, Nk, Nv])     a piece that is returned is copied
legal:   weights [Ni, K] and biases [Ni] are constants of one dtype that no call changes; where only some have a
         bias the others get -0.0, which is neutral
pays:    x is read once, and one larger matrix product keeps the machine busier than several small ones; costs
         a joint copy of the weights, so it is declined above ``max_bytes``
source:  Shoeybi et al. 2019, section 3 (joint QKV projection)
"""

from __future__ import annotations

import operator
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments
from txgraph.ir.aliasing import reaches_output
from txgraph.rewrite import Pass, PassContext, Rewrite, replace


@dataclass(frozen=True)
class FuseSharedInputLinears(Pass):
    """One matrix product for all projections of a value.

    Attributes:
        max_bytes: largest joint weight in bytes.
    """

    max_bytes: int = 256 << 20

    @property
    def pays(self) -> bool:
        return True

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        groups: dict[tuple[object, torch.dtype], list[Node]] = defaultdict(list)
        joint_bytes: dict[tuple[object, torch.dtype], int] = defaultdict(int)
        for node in graph.calls():
            weight = _owned_weight(graph, node)
            if weight is not None:
                groups[node.args[0], weight.dtype].append(node)
                joint_bytes[node.args[0], weight.dtype] += weight.nbytes
        rewrites = []
        for key, group in groups.items():
            if len(group) > 1 and joint_bytes[key] > self.max_bytes:
                context.decline(self, group[0], f"the joint weights have {joint_bytes[key]} bytes: too large a copy")
            elif len(group) > 1 and context.permits(self, group[0]):
                rewrites.append(self._join(graph, group))
        return rewrites

    def _join(self, graph: Graph, group: list[Node]) -> Rewrite:
        named = [arguments(n) for n in group]
        builder = GraphBuilder(graph, group[0], like=group, made_by=self.name)
        weights = [graph.constants[str(a["weight"].target)] for a in named]
        names = [str(a["weight"].target) for a in named]
        joint = builder.constant("_and_".join(dict.fromkeys(names)), torch.cat(weights), names)
        bias = None
        if any(a["bias"] is not None for a in named):
            biases = [
                graph.constants[str(a["bias"].target)] if a["bias"] is not None else w.new_full((w.shape[0],), -0.0)
                for a, w in zip(named, weights, strict=True)
            ]
            bias_names = [str(a["bias"].target) for a in named if a["bias"] is not None]
            bias = builder.constant("_and_".join(dict.fromkeys(bias_names)), torch.cat(biases), bias_names)
        linear = builder.aten.linear(named[0]["input"], joint, bias)
        parts = builder.aten.split_with_sizes(linear, [w.shape[0] for w in weights], -1)
        pieces = [builder.call(operator.getitem, parts, at) for at in range(len(group))]
        for at, node in enumerate(group):
            if reaches_output(node):  # the caller may view it, write to it, or keep it without the others
                pieces[at] = builder.aten.clone(pieces[at], memory_format=torch.contiguous_format)
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
