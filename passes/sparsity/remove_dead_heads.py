"""Remove attention heads that have no effect.

before:  linear(join(attention(q, k, v)), W, b)                  q: [B, H, S, D]  k, v: [B, G, T, D]  W: [N, H * D]
after:   the same with fewer heads: smaller W, smaller weights of query, key and value. A head is dead if W has zeros
         for all that it gives, or if the rows that make its values are zero, and their bias, too
legal:   the weights are constants that no call changes and that nothing else uses; no value between holds anything else
         or is used elsewhere. A head of keys goes with all query heads that it serves. One head stays, which hands on a
         NaN. Where a dead head overflows, eager's 0 * inf is NaN, and the result here may be finite
pays:    the head's part of four linears and of the attention; the model keeps its own weights beside the smaller ones
source:  Michel, Levy, Neubig 2019 (Are sixteen heads really better than one?), section 3
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import Graph, arguments
from txgraph.passes.sparsity.flow import UnitFlow
from txgraph.passes.sparsity.heads import AttentionHeads, heads_of
from txgraph.passes.sparsity.linears import any_zero_lines, linear_of, weight_of, weights_of, zero_lines
from txgraph.passes.sparsity.rules import ATTENTION, across, viewed
from txgraph.passes.sparsity.take_out import without_units
from txgraph.passes.sparsity.units import NO_UNIT
from txgraph.rewrite import Pass, PassContext, Reject, Rewrite


@dataclass(frozen=True)
class RemoveDeadHeads(Pass):
    """Attention with the heads that matter."""

    @property
    def pays(self) -> bool:
        return True

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites: list[Rewrite] = []
        if not any_zero_lines(graph):
            return rewrites
        for attention in [node for node in graph.calls() if node.target in ATTENTION]:
            block = heads_of(graph, attention)
            if isinstance(block, Reject):
                context.decline(self, attention, block.reason, block.node)
                continue
            rewrite = self._remove(graph, block, attention, context)
            rewrites += [] if rewrite is None else [rewrite]
        return rewrites

    def _remove(self, graph: Graph, block: AttentionHeads, attention: Node, context: PassContext) -> Rewrite | None:
        flow = block.flow
        dead = _unread(graph, flow) | _without_values(graph, flow, attention)
        if bool(dead.all()):
            dead[0] = False
        if not bool(dead.any()):
            return None
        smaller = without_units(graph, flow, ~dead, self.name)
        return smaller.apply(self.name) if smaller.is_wanted(self, context) else None


def _unread(graph: Graph, flow: UnitFlow) -> torch.Tensor:
    """The units of which no linear reads anything, ``[flow.count]``."""
    unread = torch.ones(flow.count, dtype=torch.bool)
    for value, linear in flow.read:
        for weight in weights_of(linear):
            columns = ~zero_lines(weight.values(graph), 0)
            labels = flow.units[value].labels
            labels = labels.repeat(len(columns) // len(labels))
            unread[labels[columns & (labels != NO_UNIT)]] = False
    return unread


def _without_values(graph: Graph, flow: UnitFlow, attention: Node) -> torch.Tensor:
    """The units whose values are zero, ``[flow.count]``: those of zero rows, which views alone hand on."""
    value: Node = arguments(attention)["value"]
    units = flow.units[value]
    while value not in flow.made:
        source = viewed(value)
        answer = None if source is None else across(value, source, units, forward=False)
        if source is None or answer is None or isinstance(answer, str):
            return torch.zeros(flow.count, dtype=torch.bool)
        value, units = source, answer
    weight, linear = weight_of(value), linear_of(value)
    if linear is None or "activation" in arguments(linear):
        return torch.zeros(flow.count, dtype=torch.bool)
    rows, bias = ~zero_lines(weight.values(graph), 1), weight.bias_values(graph)
    alive = rows if bias is None else rows | (bias != 0).cpu()
    labels = units.labels.repeat(len(alive) // len(units.labels))
    zero = torch.zeros(flow.count, dtype=torch.bool)
    zero[labels[labels != NO_UNIT]] = True
    zero[labels[alive & (labels != NO_UNIT)]] = False
    return zero
