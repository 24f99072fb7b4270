"""Recover attention from its decomposed form.

before:  matmul(softmax(matmul(q, transpose(k)) * scale + bias + mask, -1), v)
after:   scaled_dot_product_attention(q, k, v, bias + mask, scale=scale)    q: [B, H, S, D]  k, v: [B, H, T, D]
legal:   softmax over the keys, in the dtype of the scores (a float32 island in a 16-bit model stays); the
         weights are not used elsewhere; the mask is additive, of the scores' dtype, and cannot hold -inf (a row
         of nothing but -inf is NaN in eager and 0 in the fused operator)
pays:    the S x T scores are not written to memory: 4 B H S T elements less to read and write
source:  Vaswani et al. 2017, equation 1; Dao et al. 2022
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, type_of
from txgraph.ir.bounds import ValueBounds
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass


@dataclass(frozen=True)
class FuseAttention(RewritePass):
    """One operator for scores, mask, softmax and weighted sum."""

    def pattern(self, p: PatternFactory) -> Pattern:
        product = p.aten.matmul(
            p.any("q"), p.aten.transpose(p.any("k"), p.any("axis0"), p.any("axis1")), name="product"
        )
        scores = p.either(p.aten.mul(product, p.number("scale")), p.aten.div(product, p.number("divisor")), product)
        biased = p.optional(lambda s: p.aten.add(s, p.any("bias")), scores)
        masked = p.optional(lambda s: p.aten.add(s, p.any("mask")), biased)
        weights = p.aten.softmax(masked, p.any("over"), p.any("dtype"), name="weights")
        return p.aten.matmul(p.optional(lambda w: p.aten._to_copy(w, dtype=p.any("back")), weights), p.any("v"))

    def check(self, match: Match) -> Accept | Reject:
        q, k, v, weights = match.type("q"), match.type("k"), match.type("v"), match["weights"]
        if not q.rank == k.rank == v.rank or q.rank < 3:
            return Reject(f"query is {q}, key {k}, value {v}: expected the same rank, 3 or more", match.root)
        if {match["axis0"] % k.rank, match["axis1"] % k.rank} != {k.rank - 2, k.rank - 1}:
            return Reject("the key is not transposed in its last two axes", match["product"])
        if match["over"] % q.rank != q.rank - 1:
            return Reject("the softmax is not over the keys", weights)
        if not q.dtype == k.dtype == v.dtype == match.type("weights").dtype:
            return Reject(f"the softmax is computed in {match.type('weights').dtype}, attention in {q.dtype}", weights)
        return self._check_mask(match)

    def _check_mask(self, match: Match) -> Accept | Reject:
        bounds = ValueBounds(match.graph)
        lowest = 0.0
        for mask in _masks(match):
            mask_type = type_of(mask)
            if mask_type is None or mask_type.dtype != match.type("q").dtype:
                return Reject(f"the mask is {mask_type}, expected {match.type('q').dtype} added to the scores", mask)
            lowest += min(bounds.of(mask)[0], 0.0)
            # Sums barely below the lowest number round to it.
            if lowest < torch.finfo(mask_type.dtype).min * (1 + torch.finfo(mask_type.dtype).eps / 4):
                return Reject("the mask may hold -inf: a row without any key is NaN in eager and 0 when fused", mask)
        match.graph.constants.observe(bounds.used)
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        scale = match.get("scale", 1.0 / match["divisor"] if "divisor" in match.bound else 1.0)
        masks = _masks(match)
        mask = g.aten.add.Tensor(*masks) if len(masks) == 2 else next(iter(masks), None)
        return g.aten.scaled_dot_product_attention(match["q"], match["k"], match["v"], mask, scale=float(scale))


def _masks(match: Match) -> list[Node]:
    """What is added to the scores: a bias (such as relative positions), a mask, both or none."""
    return [match[name] for name in ("bias", "mask") if name in match.bound]
