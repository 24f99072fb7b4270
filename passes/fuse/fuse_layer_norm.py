"""Recover LayerNorm from its decomposed form.

before:  d = x - mean(x, -1);  d / sqrt(mean(d * d, -1) + eps) * w + b
after:   layer_norm(x, [E], w, b, eps)                  x: [..., E]  w, b: [E]
legal:   both means are over the last axis and keep it; eps is a number that is positive in the dtype of x; w and b
         have the one axis E and the dtype of x; no inner value is used outside
pays:    5 reads and 4 writes of x (bytes) less
source:  Ba, Kiros, Hinton 2016, equation 3
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, same_size, type_of
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass


@dataclass(frozen=True)
class FuseLayerNorm(RewritePass):
    """One operator for mean, variance, normalisation and affine part."""

    def pattern(self, p: PatternFactory) -> Pattern:
        x = p.any("x")
        d = p.aten.sub(x, p.aten.mean(x, p.any("mean_axes"), True), name="d")
        squares = p.either(p.aten.pow(d, 2), p.aten.mul(d, d))
        shifted = p.aten.add(p.aten.mean(squares, p.any("variance_axes"), True), p.number("eps"))
        normal = p.either(
            p.aten.div(d, p.either(p.aten.sqrt(shifted), p.aten.pow(shifted, 0.5))),
            p.aten.mul(d, p.either(p.aten.rsqrt(shifted), p.aten.pow(shifted, -0.5))),
        )
        scaled = p.aten.mul(normal, p.const("w"))
        return p.either(p.aten.add(scaled, p.const("b")), scaled, normal)

    def check(self, match: Match) -> Accept | Reject:
        x = match.type("x")
        for axes in (match["mean_axes"], match["variance_axes"]):
            if axes not in ([-1], [x.rank - 1]):
                return Reject(f"a mean is over the axes {axes}, not over the last", match["d"])
        if not x.rank or not isinstance(x.shape[-1], int) or not x.dtype.is_floating_point:
            return Reject(f"x is {x}: expected floats with a fixed last axis", match.root)
        if not torch.tensor(match["eps"], dtype=x.dtype) > 0:
            return Reject(f"eps is {match['eps']}: a row without variance is NaN in eager", match.root)
        for name in ("w", "b"):
            affine = type_of(match.get(name))
            if affine is not None and (affine.rank != 1 or affine.dtype != x.dtype):
                return Reject(f"{name} is {affine}, expected one axis of {x.dtype}", match.root)
            if affine is not None and not same_size(affine.shape[0], x.shape[-1]):
                return Reject(f"{name} is {affine}, which broadcasts along x's last axis", match.root)
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        size = match.type("x").shape[-1]
        return g.aten.layer_norm(match["x"], [size], match.get("w"), match.get("b"), float(match["eps"]))
