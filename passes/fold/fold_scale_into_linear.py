"""Fold a factor before or after a linear into its weight, and a term after it into its bias.

before:  linear(x, W, b) * c         linear(x * c, W, b)     linear(x, W, b) + v
after:   linear(x, W * c, b * c)     linear(x, W * c, b)     linear(x, W, b + v)
         x: [..., K]  W: [N, K]  b, v: [N]  c: a number, one element, [N] after the linear, [K] before it
legal:   what is folded are numbers and constants that no call changes; c is finite; the value between is not used
         elsewhere; W has no other user, so that it is replaced, not copied; the folded values are finite, and no
         product is subnormal. In 16 bits they must be exact, as they are for a power of two: rounded weights would
         bring K errors into each sum, eager's product brings one. Where eager's value between overflows, the result
         may be finite
pays:    1 read and 1 write of [..., N] or [..., K] (bytes) less; the model keeps its own W beside the new one
source:  Jacob et al. 2018, section 3.2 (there for batch normalisation)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, same_size, type_of
from txgraph.passes.fold.new_weights import rounded, times, why_not_replaced
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass


@dataclass(frozen=True)
class FoldScaleIntoLinear(RewritePass):
    """No operator of its own for what a weight or bias can hold."""

    def pattern(self, p: PatternFactory) -> Pattern:
        x, w, b, c = p.any("x"), p.const("w"), p.any("b"), p.either(p.number("c"), p.const("c"))
        return p.either(  # y becomes z
            p.aten.mul(p.aten.linear(x, w, b, name="y"), c, name="z"),
            p.aten.linear(p.aten.mul(p.any("y"), c, name="z"), w, b),
            p.aten.add(p.aten.linear(x, p.any("w"), b, name="y"), p.const("v"), name="z"),
        )

    def check(self, match: Match) -> Accept | Reject:
        w, z, y = match.type("w"), match.type("z"), type_of(match["y"])
        if w.rank != 2 or not w.dtype.is_floating_point:
            return Reject(f"the weight is {w}, expected floats with two axes", match.root)
        if z != y:
            return Reject(f"the type changes from {y} to {z}", match["z"])
        size = w.shape[0] if "x" in match.bound else w.shape[1]
        c, v = type_of(match.get("c")), type_of(match.get("v"))
        if c is not None and any(s != 1 for s in c.shape) and c.shape != (*[1] * (c.rank - 1), size):
            return Reject(f"c is {c}, expected one element or {size} along the last axis", match["z"])
        if v is not None and (v.rank != 1 or not same_size(v.shape[0], size) or v.dtype != w.dtype):
            return Reject(f"v is {v}, expected {size} elements of {w.dtype}", match["z"])
        problem = why_not_replaced(match.graph, _used(match), match["w"] if v is None else None, match.nodes)
        if problem:
            return Reject(problem, match.root)
        if "c" in match.bound and not bool(_factor(match).isfinite().all()):
            return Reject("the factor is not finite", match["z"])
        problems = [text for text in _folded(match).values() if isinstance(text, str)]
        return Reject(problems[0], match.root) if problems else Accept()

    def gain(self, match: Match, made: Sequence[Node]) -> float | None:
        return match.seconds_saved(made)

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        held = {"w": match["w"], "b": match["b"] if match["b"] is not None else match.get("v")}
        others = [str(n.target) for n in (match.get("c"), match.get("v")) if isinstance(n, Node)]
        for name, value in _folded(match).items():
            assert isinstance(value, torch.Tensor), "checked"
            source = str(held[name].target)
            held[name] = g.constant(f"{source}_folded", value, [source, *others])
        return g.aten.linear(match.get("x", match["y"]), held["w"], held["b"])


def _used(match: Match) -> list[Node]:
    """The bindings whose values are folded."""
    names = ["w", "b", "c"] if "x" in match.bound else ["w", "c"]
    if "v" in match.bound:
        names = ["b", "v"] if match["b"] is not None else []
    return [match[name] for name in names if isinstance(match[name], Node)]


def _factor(match: Match) -> torch.Tensor:
    """The factor as one element, or one axis."""
    c = match.graph.constant(match["c"])
    return torch.tensor(float(match["c"]), dtype=torch.float64) if c is None else c.flatten()


def _folded(match: Match) -> dict[str, torch.Tensor | str]:
    """New values of the weight and the bias, for those that change; a text says why there is none."""
    w, b, v = (match.graph.constant(match.get(name)) for name in ("w", "b", "v"))
    if "v" in match.bound:
        return {} if b is None or v is None else {"b": rounded(b.double() + v.double(), b.dtype)}
    assert w is not None, "the pattern: a constant"
    factor = _factor(match)
    if "x" not in match.bound:
        return {"w": times(w, factor)}
    return {"w": times(w, factor[..., None])} | ({} if b is None else {"b": times(b, factor)})
