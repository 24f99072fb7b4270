"""Give attention without an axis of heads one, for kernels that want it.

before:  scaled_dot_product_attention(q, k, v, mask)                          q: [N, S, D]  k, v: [N, T, D]
after:   squeeze(scaled_dot_product_attention(q, k, v, mask), 1)              q: [N, 1, S, D]  k, v: [N, 1, T, D]
legal:   query, key and value have three axes. Where the keys may be so few that the kernel loses the NaN of a query
         without a mask, it gets one: of one zero, or the causal one
pays:    torch's fused kernels take four axes; with three the S x T scores are written to memory
source:  torch documentation of scaled_dot_product_attention
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder
from txgraph.passes.fuse.attention_scores import may_lose_nan
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass


@dataclass(frozen=True)
class AddHeadAxis(RewritePass):
    """[N, S, D] is [N, 1, S, D]."""

    def pattern(self, p: PatternFactory) -> Pattern:
        q, k, v, mask = p.any("q"), p.any("k"), p.any("v"), p.any("mask")
        return p.aten.scaled_dot_product_attention(q, k, v, mask, 0.0, p.any("causal"), scale=p.any("scale"))

    def check(self, match: Match) -> Accept | Reject:
        ranks = [match.type(name).rank for name in "qkv"]
        if ranks != [3, 3, 3]:
            return Reject(f"query, key and value have {ranks} axes, expected three each", match.root)
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        q, k, v = (g.aten.unsqueeze.default(match[name], 1) for name in "qkv")
        mask, causal = match["mask"], match["causal"]
        if mask is not None and match.type("mask").rank == 3:
            mask = g.aten.unsqueeze.default(mask, 1)
        if mask is None and may_lose_nan(match.graph, match.type("k").shape[-2]):
            mask = g.aten.new_zeros.default(match["q"], [1, 1])
            if causal:
                sizes = [g.size(match[name], 1) for name in "qk"]
                mask, causal = g.aten.tril.default(g.aten.new_ones.default(mask, sizes, dtype=torch.bool)), False
        attention = g.aten.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=match["scale"])
        return g.aten.squeeze.dim(attention, 1)
