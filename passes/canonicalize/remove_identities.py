"""Remove operators that give back their own input.

before:  dropout(x, p, train=False)   clone(x)   x * 1   x / 1   i + 0 (integers)
after:   x
legal:   the value is the same bit for bit; ``x + 0`` only for integers, because ``-0.0 + 0`` is ``0.0``;
         a copy stays where dropping it would make an output share memory with an
         input, a weight or another output
pays:    one read and one write of x (bytes) less
source:  IEEE 754, sections 6.3 and 9.2, for what multiplication by one keeps
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, type_of
from txgraph.ir.aliasing import copy_is_needed, strides
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass

_NEED_A_LAYOUT = (
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.view_as_complex.default,
)


@dataclass(frozen=True)
class RemoveIdentities(RewritePass):
    """Drop eval-mode dropout, copies nobody can tell apart, and arithmetic with neutral elements."""

    def pattern(self, p: PatternFactory) -> Pattern:
        x = p.any("x")
        return p.either(
            p.aten.dropout(x, p.any(), False),
            p.aten.clone(x, memory_format=p.any()),
            p.aten.type_as(x, p.any()),
            p.aten.mul(x, 1),
            p.aten.div(x, 1),
            p.aten.add(x, 0, alpha=p.any("alpha")),
            p.aten.sub(x, 0, alpha=p.any("alpha")),
        )

    def check(self, match: Match) -> Accept | Reject:
        x = match["x"]
        if not isinstance(x, Node) or type_of(x) != type_of(match.root):
            return Reject("the result has another type than its input", match.root)
        viewed = next((user for user in match.root.users if user.target in _NEED_A_LAYOUT), None)
        if viewed is not None and strides(x) != strides(match.root):
            return Reject("a view of the copy needs its layout", viewed)
        if "alpha" in match.bound and match.type("x").dtype.is_floating_point:
            return Reject("adding zero to a float turns -0.0 into 0.0", match.root)
        if copy_is_needed(x, match.root):
            return Reject("without the copy an output could share memory with an input or a weight", match.root)
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        x: Node = match["x"]
        return x
