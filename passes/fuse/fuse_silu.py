"""Recover SiLU (swish) from its decomposed form.

before:  x * sigmoid(x)
after:   silu(x)
legal:   both are the same x, a float tensor; the sigmoid is not used elsewhere
pays:    1 read and 1 write of x (bytes) less; a linear before it can then compute it
source:  Hendrycks & Gimpel 2016, section 2 (there SiLU); Elfwing, Uchibe, Doya 2018, section 2
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from txgraph.ir import GraphBuilder
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass


@dataclass(frozen=True)
class FuseSilu(RewritePass):
    """One operator for the product of a value and its sigmoid."""

    def pattern(self, p: PatternFactory) -> Pattern:
        x = p.any("x")
        return p.aten.mul(x, p.aten.sigmoid(x))

    def check(self, match: Match) -> Accept | Reject:
        x = match.type("x")
        if not x.dtype.is_floating_point:
            return Reject(f"x is {x}: silu is defined for floats", match.root)
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        return g.aten.silu(match["x"])
