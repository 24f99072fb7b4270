"""Do the work for tokens only: what a padded batch holds at padding is not computed where nobody uses it.

before:  embedding, linears, norms, activations, attention ... on ``[B, S, ...]``, with a mask that hides padded keys
after:   the same on packed tokens ``[N, ...]``; attention within each row, ``txgraph::ragged_attention``
legal:   the mask hides every padded key, proven from its formula; packed operators treat each token by itself; what
         they hold at padding reaches no output, and no other operator but under a mask that is zero there
         (:mod:`txgraph.passes.padding.token_flow`). Guarded: calls whose mask has other values, too many tokens, or
         padding where a token is taken by its place, or before tokens where eager leaves it out only behind them, get a
         graph without this rewrite. What is not finite at padding
         is lost, where eager lets it through: zero times NaN, of a hidden key or under a mask
pays:    the work falls with the share of tokens; each attention runs once for each length, and packing and unpacking
         copy. Above :attr:`RemovePadding.density` it does not pay
source:  Zeng et al. 2022, "Boosting Distributed Training Performance of the Unpadded BERT Model"; Zhai et al. 2023,
         "ByteTransformer"
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import networkx as nx
import torch
from torch.fx import Node

from txgraph.ir import Graph, arguments, describe
from txgraph.ir.node import GETITEM
from txgraph.ir.padding import PaddingAssumption
from txgraph.passes.padding.attention_masks import ATTENTION, padded_attentions
from txgraph.passes.padding.packer import Packer
from txgraph.passes.padding.token_flow import TokenFlow
from txgraph.rewrite import Pass, PassContext, Rewrite

_aten = torch.ops.aten


@dataclass(frozen=True)
class RemovePadding(Pass):
    """Run token-wise operators on packed tokens.

    Attributes:
        density: calls with a larger share of tokens than this are not packed.
    """

    density: float = 0.85

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites = []
        attentions = list(padded_attentions(graph))
        for node in [] if attentions else graph.calls():
            if node.target is ATTENTION and arguments(node)["attn_mask"] is not None:
                context.decline(self, node, "its mask is not proven to hide what an input says is padding")
        for attention in attentions:
            flow, root = TokenFlow.of(graph, attention), next(iter(attention.rest))
            if reason := _in_the_way(flow):
                context.decline(self, root, reason)
                continue
            mask = attention.formulas.mask
            assumption = PaddingAssumption(mask, self.density, frozenset(flow.needs))
            example = context.inputs.get(mask.input)
            chosen = _worth_packing(flow)
            if not chosen:
                self._say_what_is_exposed(context, root, flow, None if example is None else assumption, example)
                continue
            if example is not None and not assumption.accepts(example):
                graph.assumptions = (*graph.assumptions, replace(assumption, holds=False))
                context.decline(self, root, f"this call is not packed: {assumption.broken(example)}")
                continue
            if context.permits(self, root):
                graph.assumptions = (*graph.assumptions, assumption)
                graph.constants.observe(attention.formulas.expressions.used)
                count = 64 if example is None else int(mask.tokens(example).count_nonzero())
                rewrites.append(Packer(graph, flow, chosen, count, self.name).run(root))
        return rewrites

    def _say_what_is_exposed(
        self,
        context: PassContext,
        root: Node,
        flow: TokenFlow,
        assumption: PaddingAssumption | None,
        example: torch.Tensor | None,
    ) -> None:
        """Follow the use of padding to where it ends; what that costs is for the report."""
        node = next((n for n in reversed(flow.exposed) if n.target is ATTENTION), root)
        user = flow.exposed.get(node)
        while user is not None and user in flow.exposed:
            node, user = user, flow.exposed[user]
        if user is None or user.op != "output":
            where = "" if user is None else f" by {describe(user)}"
            context.decline(self, root, f"values at padding are used{where}", user)
            return
        shown = f"output {list(flow.graph.outputs).index(node)} shows values at padding"
        context.decline(self, root, f'{shown}: with padding="zeros" they are not computed', node)
        if assumption is not None and example is not None and assumption.accepts(example):
            times = _times_faster(flow, context, assumption.mask.tokens(example))
            context.advice.append(
                f'{shown}, and so they are computed. With padding="zeros" they are zeros: about {times:.1f} times '
                f"faster on this call, as predicted"
            )


def _in_the_way(flow: TokenFlow) -> str:
    """Why nothing can be packed; an empty text if something can."""
    if 1 in (flow.tokens.batch, flow.tokens.sequence):
        return "a single row has no padding to remove"
    if not flow.layouts:
        return "no input's batch and sequence reach the keys and values through token-wise operators"
    return ""


def _worth_packing(flow: TokenFlow) -> set[Node]:
    """The values to compute on packed tokens: connected parts of the graph in which tokens attend to one another."""
    parts = nx.Graph()
    for node in flow.graph.calls():
        if node not in flow.layouts or node in flow.exposed:
            continue
        if node.target is GETITEM and node.args[0] not in parts:
            continue  # a piece of what is computed for all positions
        parts.add_node(node)
        parts.add_edges_from((source, node) for source in node.all_input_nodes if source in parts)
    heavy = (part for part in nx.connected_components(parts) if any(n.target is ATTENTION for n in part))
    return set().union(*heavy)


def _times_faster(flow: TokenFlow, context: PassContext, tokens: torch.Tensor) -> float:
    """The predicted gain if all values with tokens were packed."""
    calls = flow.graph.calls()
    density = float(tokens.double().mean())
    total, ours = (context.cost.seconds(nodes) for nodes in (calls, [n for n in calls if n in flow.layouts]))
    return total / (total - (1 - density) * ours) if total else 1.0
