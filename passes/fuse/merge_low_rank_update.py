"""Merge low-rank updates (LoRA) into the weight that they update.

before:  linear(x, W, b) + linear(linear(x, A), B) * s + ...          x: [..., K]  W: [N, K]  A: [r, K]  B: [N, r]
after:   linear(x, W + s * (B @ A) + ..., b)
legal:   W, A and B are constants that no call changes, of one dtype; s and the merged weight are finite; no inner
         value is used outside. float32 and float64 only: 16-bit linears add up in float32, on weights that are what
         they are, while a merged weight would be rounded to 16 bits. Where x is infinite both results are infinite or
         NaN, but not always the same of the two; values that overflow inside the update only in eager may not here
pays:    two products, a scaling and a sum less for each update; costs a copy of W, so it is declined above
         ``max_bytes``
source:  Hu et al. 2021, section 4.1: W' = W + B A
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, TensorType, type_of
from txgraph.passes.fold.new_weights import rounded, why_not_replaced
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass


@dataclass(frozen=True)
class MergeLowRankUpdate(RewritePass):
    """One linear for a linear and the updates beside it.

    Attributes:
        max_bytes: largest merged weight in bytes.
    """

    max_bytes: int = 256 << 20

    def pattern(self, p: PatternFactory) -> Pattern:
        weight = p.either(p.const("W"), p.aten.transpose(p.const("W"), 0, 1, name="transposed"))
        linear = p.aten.linear(p.any("x"), weight, p.any("b"))
        others = p.chain(linear, "others", update=lambda total: p.aten.add(total, _update(p)))
        return p.aten.add(others, _update(p))

    def check(self, match: Match) -> Accept | Reject:
        weight = match.type("W")
        if weight.rank != 2:
            return Reject(f"the weight is {weight}, expected two axes", match["W"])
        if weight.dtype not in (torch.float32, torch.float64):
            return Reject(f"the weight is {weight}: merged and rounded to 16 bits it is worse than eager", match["W"])
        for update in _updates(match):
            refused = _check_update(update, match, weight)
            if refused is not None:
                return refused
            problem = why_not_replaced(match.graph, (match["W"], update["A"], update["B"]), None, ())
            if problem:
                return Reject(problem, update["A"])
        merged_bytes = match.graph.constants[match["W"].target].nbytes
        if merged_bytes > self.max_bytes:
            return Reject(f"the merged weight has {merged_bytes} bytes, the limit is {self.max_bytes}", match["W"])
        merged = _merged(match)
        return Reject(merged, match["W"]) if isinstance(merged, str) else Accept()

    def gain(self, match: Match, made: Sequence[Node]) -> float | None:
        return match.seconds_saved(made)

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        held = [match["W"], *(update[name] for update in _updates(match) for name in "AB")]
        merged = _merged(match)
        assert isinstance(merged, torch.Tensor), "checked"
        weight = g.constant(f"{match['W'].target}_merged", merged, [str(n.target) for n in held])
        return g.aten.linear(match["x"], weight, match["b"])


def _update(p: PatternFactory) -> Pattern:
    """linear(linear(x, A), B), scaled by numbers before, between or after."""
    down = p.aten.linear(_scaled(p, p.any("inner"), "before"), p.const("A"))
    return _scaled(p, p.aten.linear(_scaled(p, down, "between"), p.const("B")), "after")


def _scaled(p: PatternFactory, value: Pattern, name: str) -> Pattern:
    return p.either(value, p.aten.mul(value, p.number(name)))


def _updates(match: Match) -> list[Mapping[str, Any]]:
    """What the pattern has bound in each update, in the order of the sum."""
    return [*(step.bound for step in reversed(match["others"])), match.bound]


def _scales(update: Mapping[str, Any]) -> list[float]:
    return [float(update[name]) for name in ("before", "between", "after") if name in update]


def _check_update(update: Mapping[str, Any], match: Match, weight: TensorType) -> Reject | None:
    a, b = type_of(update["A"]), type_of(update["B"])
    assert a is not None, "a constant"
    assert b is not None, "a constant"
    if update["inner"] is not match["x"]:
        return Reject("the update reads another value than the linear", update["A"])
    if a.dtype != weight.dtype or b.dtype != weight.dtype:
        return Reject(f"the update's weights are {a} and {b}, the updated one is {weight}", update["A"])
    rows, columns = weight.shape[::-1] if "transposed" in match.bound else weight.shape
    if a.rank != 2 or b.rank != 2 or (b.shape[0], a.shape[1]) != (rows, columns):
        return Reject(f"the update {b} @ {a} has not the shape [{rows}, {columns}] of the weight", update["B"])
    largest = torch.finfo(weight.dtype).max
    if not all(abs(scale) <= largest for scale in _scales(update)):
        return Reject("the scale is not finite", update["B"])
    return None


def _merged(match: Match) -> torch.Tensor | str:
    """The weight with all updates, computed in float64 and rounded once; or why it cannot be a constant."""
    weight = match.graph.constants[match["W"].target]
    total = (weight.t() if "transposed" in match.bound else weight).detach().double()
    for update in _updates(match):
        a, b = (match.graph.constants[update[name].target].detach().double() for name in "AB")
        for scale in _scales(update):
            b = b * scale
        total = total + b @ a
    return rounded(total.contiguous(), weight.dtype)
