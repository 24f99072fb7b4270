"""Recover softmax from its decomposed, safe form.

before:  e = exp(x - max(x, d));  e / sum(e, d)
after:   softmax(x, d)                                  x: any shape, d: one axis
legal:   maximum and sum are over the same one axis and keep it; no inner value is used outside. The form without the
         maximum stays as it is: it overflows where softmax does not
pays:    no time by itself: attention is then recognised around it
source:  Goodfellow, Bengio, Courville 2016, section 4.1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from txgraph.ir import GraphBuilder
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass


@dataclass(frozen=True)
class FuseSoftmax(RewritePass):
    """One operator for maximum, exponential, sum and quotient."""

    def pattern(self, p: PatternFactory) -> Pattern:
        x = p.any("x")
        largest = p.either(p.aten.amax(x, p.any("over"), True), p.item(p.aten.max(x, p.any("over"), True), 0))
        e = p.aten.exp(p.aten.sub(x, largest), name="e")
        return p.aten.div(e, p.aten.sum(e, p.any("summed"), True))

    def check(self, match: Match) -> Accept | Reject:
        rank = match.type("x").rank
        over, summed = _axes(match["over"], rank), _axes(match["summed"], rank)
        if over != summed or len(over) != 1:
            return Reject(f"the maximum is over axes {over}, the sum over {summed}: expected the same one", match.root)
        if not match.type("x").dtype.is_floating_point:
            return Reject(f"it is computed from {match.type('x')}, expected floats", match.root)
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        (axis,) = _axes(match["over"], match.type("x").rank)
        return g.aten.softmax.int(match["x"], axis)


def _axes(axes: Any, rank: int) -> list[int]:
    """The axes of a reduction; over all of them where none is named."""
    if axes is None or axes == []:
        return list(range(rank))
    return sorted(axis % max(rank, 1) for axis in (axes if isinstance(axes, list | tuple) else [axes]))
