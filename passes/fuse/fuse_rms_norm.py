"""Recover RMSNorm from its decomposed form.

before:  x * rsqrt(mean(x * x, -1) + eps) * w
after:   rms_norm(x, [E], w, eps)                       x: [..., E]  w: [E]
legal:   the mean is over the last axis and keeps it; eps is a number that is positive in the dtype of x; w has the
         one axis E and the dtype of x; no inner value is used outside (casts around the norm of a 16-bit model stay,
         and the norm with them)
pays:    3 reads and 2 writes of x (bytes) less
source:  Zhang & Sennrich 2019, equation 4
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, same_size, type_of
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass


@dataclass(frozen=True)
class FuseRmsNorm(RewritePass):
    """One operator for the mean square, normalisation and scale."""

    def pattern(self, p: PatternFactory) -> Pattern:
        x = p.any("x")
        squares = p.either(p.aten.pow(x, 2), p.aten.mul(x, x))
        shifted = p.aten.add(p.aten.mean(squares, p.any("axes"), True, name="mean"), p.number("eps"))
        normal = p.either(
            p.aten.mul(x, p.either(p.aten.rsqrt(shifted), p.aten.pow(shifted, -0.5))),
            p.aten.div(x, p.either(p.aten.sqrt(shifted), p.aten.pow(shifted, 0.5))),
        )
        return p.either(p.aten.mul(normal, p.const("w")), normal)

    def check(self, match: Match) -> Accept | Reject:
        x = match.type("x")
        if match["axes"] not in ([-1], [x.rank - 1]):
            return Reject(f"the mean is over the axes {match['axes']}, not over the last", match["mean"])
        if not x.rank or not isinstance(x.shape[-1], int) or not x.dtype.is_floating_point:
            return Reject(f"x is {x}: expected floats with a fixed last axis", match.root)
        if not torch.tensor(match["eps"], dtype=x.dtype) > 0:
            return Reject(f"eps is {match['eps']}: a row of zeros is NaN in eager", match.root)
        w = type_of(match.get("w"))
        if w is not None and (w.rank != 1 or w.dtype != x.dtype or not same_size(w.shape[0], x.shape[-1])):
            return Reject(f"w is {w}, expected {x.shape[-1]} elements of {x.dtype}", match.root)
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        return g.aten.rms_norm(match["x"], [match.type("x").shape[-1]], match.get("w"), float(match["eps"]))
