"""Remove views and casts that change nothing, and join those that follow one another.

before:  reshape(reshape(x, a), b)   transpose(transpose(x, 1, 2), 1, 2)   expand(x, x.shape)   x.to(x.dtype)   alias(x)
after:   reshape(x, b)               x                                     x                    x               x
legal:   the result has the type of x. Of two casts the first is dropped only if it loses nothing
         (float16 or bfloat16 -> float32 -> float16 or bfloat16 again). A cast or reshape that may copy an output stays
pays:    a read and a write of x (bytes) where the view would have copied
source:  IEEE 754, section 5.4.2: widening conversions are exact
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, packet_of, type_of
from txgraph.ir.aliasing import copy_is_needed, reaches_output
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass

_WIDENED_BY = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float64}


@dataclass(frozen=True)
class RemovePointlessViews(RewritePass):
    """Drop no-op reshapes, transposes, expands, slices, aliases and casts."""

    def pattern(self, p: PatternFactory) -> Pattern:
        x = p.any("x")
        a, b = p.any("axis0"), p.any("axis1")
        device = {"device": p.any(), "layout": p.any()}
        return p.either(
            p.aten.reshape(p.aten.reshape(x, p.any()), p.any("shape")),
            p.aten.transpose(p.aten.transpose(x, a, b), a, b),
            p.aten._to_copy(p.aten._to_copy(x, dtype=p.any(), **device), dtype=p.any("narrow"), **device),
            p.aten.reshape(x, p.any()),
            p.aten.expand(x, p.any()),
            p.aten.slice(x, p.any(), 0, p.any()),
            p.aten.slice(x, p.any(), None, p.any()),
            p.aten.alias(x),
            p.aten._to_copy(x, dtype=p.any("dtype"), **device),
        )

    def check(self, match: Match) -> Accept | Reject:
        x, root = match["x"], match.root
        if "shape" in match.bound:
            return Reject("one of two reshapes may copy an output", root) if reaches_output(root) else Accept()
        same = type_of(x) == type_of(root)
        if not same:
            return Reject(f"it changes {type_of(x)} into {type_of(root)}", root)
        if "narrow" in match.bound and type_of(match.nodes[1]).dtype != _WIDENED_BY.get(match.type("x").dtype):  # type: ignore[union-attr]
            return Reject("the first cast may lose digits", match.nodes[1])
        copies = packet_of(root) is torch.ops.aten._to_copy
        if copies and copy_is_needed(x, root):
            return Reject("without the copy an output could share memory with an input or a weight", root)
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        if "shape" in match.bound:
            return g.aten.reshape(match["x"], match["shape"])
        x: Node = match["x"]
        return x
