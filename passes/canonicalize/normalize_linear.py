"""Write a matrix product with a weight as linear.

before:  reshape(addmm(b, reshape(x, [-1, K]), w), [..., N])   addmm(b, x, w)   matmul(x, w)
after:   linear(x, transpose(w), b)                          x: [..., K]  w: [K, N]  b: [N]
legal:   the flattened axes come back unchanged; alpha and beta are 1; b has one axis. Of matmul w is a constant of two
         axes, or its transpose, and x has two or more
pays:    nothing by itself: fusions and the choice of a GEMM then see one form (the weight is not copied)
source:  the definition of torch.nn.functional.linear
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from txgraph.ir import GraphBuilder, same_size, type_of
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass


@dataclass(frozen=True)
class NormalizeLinear(RewritePass):
    """Recover linear from addmm, also with the flattening around it."""

    def pattern(self, p: PatternFactory) -> Pattern:
        b, w = p.any("b"), p.any("w")
        flattened = p.aten.addmm(b, p.aten.reshape(p.any("x"), p.any()), w)
        weight = p.either(p.aten.transpose(p.const("wt"), p.any("axis0"), p.any("axis1")), p.const("w"))
        return p.either(
            p.aten.reshape(flattened, p.any()), p.aten.addmm(b, p.any("x"), w), p.aten.matmul(p.any("x"), weight)
        )

    def check(self, match: Match) -> Accept | Reject:
        x, out = match.type("x"), type_of(match.root)
        assert out is not None, "schema: a tensor"
        if "b" not in match.bound:
            ranks = (x.rank, match.type("wt" if "wt" in match.bound else "w").rank)
            if ranks < (2, 2) or ranks[1] != 2:
                return Reject(f"factors of {ranks} axes", match.root)
            if "wt" in match.bound and match["axis0"] % 2 == match["axis1"] % 2:
                return Reject("an axis of the weight is exchanged with itself", match.root)
            return Accept()
        bias = match.type("b")
        if bias.rank != 1:
            return Reject(f"the added term is {bias}, not a bias of one axis", match.root)
        same_axes = x.rank == out.rank and all(map(same_size, x.shape[:-1], out.shape[:-1]))
        inner, outer = match.type("w").shape
        if not same_axes or not same_size(x.shape[-1], inner) or not same_size(out.shape[-1], outer):
            return Reject(f"the flattened axes do not come back unchanged: {x} -> {out}", match.root)
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        weight = match["wt"] if "wt" in match.bound else g.aten.transpose.int(match["w"], 0, 1)
        return g.aten.linear(match["x"], weight, match.get("b"))
