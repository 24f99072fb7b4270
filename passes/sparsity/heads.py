"""Attention heads: those between the linears of query, key and value and the output projection.

    linear(join(attention(q, k, v)), W, b)        q: [B, H, S, D]  k, v: [B, G, T, D]  W: [N, H * D]

A head of keys and values that serves a group of query heads goes only with all of them: the units are groups then.
Between stand views, rotary embeddings, norms of each head, and whatever else keeps heads apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.fx import Node

from txgraph.ir import Graph, provenance_of
from txgraph.passes.sparsity.flow import UnitFlow, find_units
from txgraph.passes.sparsity.linears import linear_of
from txgraph.passes.sparsity.rules import ATTENTION, head_axis, shape_of
from txgraph.passes.sparsity.take_out import without_units
from txgraph.passes.sparsity.units import Units
from txgraph.rewrite import Reject, Rewrite


@dataclass(frozen=True)
class AttentionHeads:
    """The heads of one attention.

    Attributes:
        attention: name of the operator.
        before, after: names of the linears that make query, key and value, and of the output projection.
        joined: name of the value ``[..., H * D]`` that the output projection reads; of its columns,
            ``flow.units[...]`` says which unit they are of.
        heads: H, heads of queries. count: how many units there are: heads, or groups that share keys and values.
        dtype: of the queries.
        module, location: of the attention.
        flow: all values that hold the heads. It is of one graph, as that graph is now.
    """

    attention: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    joined: str
    heads: int
    count: int
    dtype: torch.dtype
    module: str
    location: str
    flow: UnitFlow = field(repr=False, compare=False)

    @property
    def columns(self) -> torch.Tensor:
        """The unit of each column of the output projection: int64 ``[H * D]``."""
        return self.flow.units[self.flow.read[0][0]].labels


def attention_heads(graph: Graph) -> list[AttentionHeads]:
    """All attentions of a graph of whose heads some can be taken out."""
    found = [heads_of(graph, node) for node in graph.calls() if node.target in ATTENTION]
    return [each for each in found if isinstance(each, AttentionHeads)]


def heads_of(graph: Graph, attention: Node) -> AttentionHeads | Reject:
    """The heads of an attention; or why none can be taken out."""
    axis = head_axis(attention, attention)
    heads = shape_of(attention)[axis] if axis >= 0 else 1
    if not isinstance(heads, int) or heads < 2:
        return Reject(f"{heads} heads can be told apart", attention)
    refused: Reject | None = None
    for count in (n for n in range(heads, 1, -1) if heads % n == 0):  # the smallest groups that nothing divides
        labels = torch.arange(count).repeat_interleave(heads // count)
        flow = find_units(graph, count, {attention: Units(axis, labels)})
        if isinstance(flow, UnitFlow) and flow.made and flow.read:
            return _found(attention, heads, flow)
        if isinstance(flow, Reject):
            refused = refused or flow
    return refused or Reject("no linears make and read the heads", attention)


def keep_heads(graph: Graph, block: AttentionHeads, kept: torch.Tensor, rule: str, exact: bool = True) -> Rewrite:
    """Rewrite ``graph`` in place so that only some heads are computed.

    Afterwards other blocks of the graph may have linears of other names: ask :func:`attention_heads` again.

    Args:
        block: found in this graph.
        kept: the units that stay: their numbers below ``block.count``, in any order; not empty.
        rule: name of the pass, for the record.
        exact: whether the results are the same up to rounding; if not, the record claims no equal values.
    """
    stays = torch.zeros(block.count, dtype=torch.bool)
    stays[kept] = True
    return without_units(graph, block.flow, stays, rule).apply(rule, exact)


def _found(attention: Node, heads: int, flow: UnitFlow) -> AttentionHeads:
    before = dict.fromkeys(made.name for value in flow.made if (made := linear_of(value)) is not None)
    origin, (joined, _) = provenance_of(attention), flow.read[0]
    after, dtype = tuple(reader.name for reader in flow.readers), attention.meta["val"].dtype
    return AttentionHeads(
        attention.name,
        tuple(before),
        after,
        joined.name,
        heads,
        flow.count,
        dtype,
        origin.module,
        origin.location,
        flow,
    )
