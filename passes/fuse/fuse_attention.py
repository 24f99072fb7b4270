"""Recover attention from its decomposed form.

before:  matmul(softmax(matmul(q, transpose(k)) * scale + bias + mask, -1), v)
after:   scaled_dot_product_attention(q, k, v, bias + mask, scale=scale)    q: [B, H, S, D]  k, v: [B, H, T, D]
legal:   softmax over the keys, in the dtype of the scores (a float32 island in a 16-bit model stays); the
         weights are not used elsewhere; the scale is finite; the mask is additive, of the scores' dtype, does not
         enlarge them, has 2 axes or more, and cannot make them -inf (a row of nothing but -inf is NaN in eager
         and 0 in the fused operator)
pays:    the S x T scores are not written to memory: 4 B H S T elements less to read and write
source:  Vaswani et al. 2017, equation 1; Dao et al. 2022
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import DTYPE_NAMES, GraphBuilder, same_size, type_of
from txgraph.ir.bounds import ValueBounds
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass

_LARGEST_SCORE = 1e3  # in float16 a mask of -65504 and a score of -20 make -inf


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
        masked, scores = match.type("weights"), match.type("product")
        if masked.rank != q.rank or not all(map(same_size, masked.shape, scores.shape)):
            return Reject(f"the mask enlarges the scores from {scores} to {masked}", weights)
        if match["over"] % q.rank != q.rank - 1:
            return Reject("the softmax is not over the keys", weights)
        if not q.dtype == k.dtype == v.dtype == masked.dtype:
            inner, *outer = (DTYPE_NAMES.get(t.dtype, str(t.dtype)) for t in (masked, q, k, v))
            found = "{}, {} and {}".format(*outer)
            return Reject(f"the softmax is computed in {inner}, query, key and value are {found}", weights)
        if not math.isfinite(_scale(match)):
            return Reject("the scale is not finite", match["product"])
        return self._check_mask(match)

    def _check_mask(self, match: Match) -> Accept | Reject:
        bounds, limits = ValueBounds(match.graph), torch.finfo(match.type("q").dtype)
        lowest, rank = 0.0, 0
        for mask in _masks(match):
            mask_type = type_of(mask)
            if mask_type is None or mask_type.dtype != match.type("q").dtype:
                found = mask if mask_type is None else mask_type
                return Reject(f"the mask is {found}, expected {match.type('q').dtype}", match["weights"])
            rank = max(rank, mask_type.rank)
            lowest += min(bounds.of(mask)[0], 0.0)
            # Sums barely below the lowest number round to it.
            if lowest - _LARGEST_SCORE < limits.min * (1 + limits.eps / 4):
                return Reject("the mask may make -inf: a row without any key is NaN in eager and 0 when fused", mask)
        if _masks(match) and rank < 2:
            return Reject("the mask has fewer axes than the 2 that the fused operator takes", match["weights"])
        match.graph.constants.observe(bounds.used)
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        masks = _masks(match)
        mask = g.aten.add.Tensor(*masks) if len(masks) == 2 else next(iter(masks), None)
        return g.aten.scaled_dot_product_attention(match["q"], match["k"], match["v"], mask, scale=_scale(match))


def _masks(match: Match) -> list[Node]:
    """What is added to the scores: a bias (such as relative positions), a mask, both or none."""
    return [match[name] for name in ("bias", "mask") if name in match.bound]


def _scale(match: Match) -> float:
    """What the scores are multiplied by; NaN for a division by zero."""
    if "divisor" in match.bound:
        return 1.0 / match["divisor"] if match["divisor"] else math.nan
    return float(match.get("scale", 1.0))
