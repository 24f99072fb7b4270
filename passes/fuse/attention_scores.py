"""What stands between the product of query and key and the softmax: scales, masks and changes of shape.

The steps, from the product outwards, are folded into ``product * scale + mask``: what the fused operator takes. The
product may be softly capped before the mask: ``cap * tanh(product * scale / cap)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, type_of
from txgraph.ir.bounds import ValueBounds
from txgraph.ir.index_expressions import IndexExpressions
from txgraph.ir.masks import every_row_sees_a_key
from txgraph.rewrite import PatternFactory, Reject
from txgraph.rewrite.pattern import Pattern, Step

LARGEST_SCORE = 1e3  # products of query and key are taken to stay below it
_LANES = 32
_HIDES = -2 * LARGEST_SCORE - 750  # exp of this difference is 0 in every dtype


def chain_of_steps(p: PatternFactory, product: Pattern) -> Pattern:
    """The pattern: the product under any of the steps, bound to ``"steps"``, outermost first."""
    return p.chain(
        product,
        "steps",
        scale=lambda s: p.aten.mul(s, p.number("factor")),
        divide=lambda s: p.aten.div(s, p.number("divisor")),
        mask=lambda s: p.aten.add(s, p.any("mask")),
        fill=lambda s: p.aten.masked_fill(s, p.any("hidden"), p.number("value")),
        cap=lambda s: p.aten.tanh(s),
        reshape=lambda s: p.aten.reshape(s, p.any("shape")),
    )


def factor_of(step: Step) -> float:
    """What a step multiplies the scores by; NaN for a division by zero."""
    if step.kind == "divide":
        return 1.0 / step.bound["divisor"] if step.bound["divisor"] else math.nan
    return float(step.bound["factor"]) if step.kind == "scale" else 1.0


def scale_of(steps: Sequence[Step]) -> float:
    """What the product is multiplied by."""
    return math.prod(map(factor_of, steps))


def split_at_cap(steps: Sequence[Step]) -> tuple[Sequence[Step], Sequence[Step] | None]:
    """The steps outside of a soft cap, and those inside; ``None`` for the latter where there is no cap."""
    at = next((at for at, step in enumerate(steps) if step.kind == "cap"), None)
    return (steps, None) if at is None else (steps[:at], steps[at + 1 :])


def check_cap(steps: Sequence[Step]) -> Reject | None:
    """Why a soft cap is not ``cap * tanh(product * scale / cap)``; ``None`` if it is, or if there is none."""
    outside, inside = split_at_cap(steps)
    for step in inside or ():
        if step.kind in ("cap", "mask", "fill"):
            return Reject(f"a soft cap has a {step.kind} inside of it", step.node)
    if inside is not None and not (0 < abs(scale_of(outside)) <= LARGEST_SCORE and math.isfinite(scale_of(inside))):
        return Reject(f"the scores are capped at {scale_of(outside)}", steps[0].node)
    return None


def check_steps(steps: Sequence[Step], dtype: torch.dtype, bounds: ValueBounds) -> Reject | None:
    """Why ``product * scale + mask`` would not be what the steps compute; ``None`` if it is."""
    lowest, filled = 0.0, 0.0  # of what has been added so far, and what hidden scores are filled with
    for step in reversed(steps):
        if step.kind in ("scale", "divide"):
            factor = factor_of(step)
            filled *= factor
            if not math.isfinite(factor) or filled > 0 or -math.inf < filled < torch.finfo(dtype).min:
                return Reject(f"the scores are scaled by {factor}", step.node)
            lowest = lowest * factor if lowest else 0.0
        if step.kind == "mask":
            mask_type = type_of(step.bound["mask"]) if isinstance(step.bound["mask"], Node) else None
            if mask_type is None or mask_type.dtype != dtype:
                found = step.bound["mask"] if mask_type is None else mask_type
                return Reject(f"the mask is {found}, expected {dtype}", step.node)
            low = min(bounds.of(step.bound["mask"])[0], 0.0)
            if filled and low < _HIDES:
                return Reject("a mask is added to scores that are filled already", step.node)
            lowest += low
        if step.kind == "fill":
            value = float(step.bound["value"])
            if not value <= _HIDES or (lowest < value / 2 and value > torch.finfo(dtype).min):
                return Reject(f"the scores are filled with {value}, which may not hide them", step.node)
            filled = value
    limits = torch.finfo(dtype)
    # Sums barely below the lowest number round to it.
    if math.isfinite(lowest) and lowest - LARGEST_SCORE < limits.min * (1 + limits.eps / 4) <= lowest:
        return Reject(f"the mask and a score may add up to -inf in {dtype}", steps[0].node)
    return None


@dataclass
class MaskBuilder:
    """Builds the mask that the steps add up to.

    Attributes:
        mask: of the dtype of the scores, or boolean (true: visible); ``None``: all is visible.
        outer: what the steps that are still to come multiply by.
        split: the shape that the scores were given between product and softmax, if they were.
        joined: whether the scores have their first shape at the present step.
    """

    g: GraphBuilder
    dtype: torch.dtype
    outer: float = 1.0
    mask: Node | None = None
    split: Sequence[int | Node] | None = None
    joined: bool = True

    def take(self, steps: Sequence[Step]) -> None:
        """Go outwards, from the product to the softmax; the mask then has the 2 axes that the operator wants."""
        for at in reversed(range(len(steps))):
            self.outer = scale_of(steps[:at])
            self._take(steps[at])
        while self.mask is not None and type_of(self.mask).rank < 2:  # type: ignore[union-attr]  # a tensor
            self.mask = self.g.aten.unsqueeze.default(self.mask, 0)

    def _take(self, step: Step) -> None:
        if step.kind == "reshape":
            if self.split is None:
                self.split, self.joined = step.bound["shape"], True
                self.mask = None if self.mask is None else self._split(self.mask)
            self.joined = not self.joined
        elif step.kind == "mask":
            self._add(self._split(step.bound["mask"]))
        elif step.kind == "fill":
            self._fill(self._split(step.bound["hidden"]), float(step.bound["value"]))
        elif self.mask is not None and not self._is_boolean() and factor_of(step) != 1:
            self.mask = self.g.aten.mul.Tensor(self.mask, factor_of(step))

    def _split(self, value: Node) -> Node:
        """[N, s, t] as [B, H, s, t], once the scores [N, S, T] have been split; s and t may be 1.

        Where the scores are split at this step, three axes are [H, s, t].
        """
        sizes = type_of(value).shape  # type: ignore[union-attr]  # a tensor
        if self.split is None or len(sizes) != 3:
            return value
        if str(sizes[0]) == "1" or not self.joined:
            return self.g.aten.unsqueeze.default(value, 0)
        ends = [1 if str(size) == "1" else end for size, end in zip(sizes[-2:], self.split[-2:], strict=True)]
        return self.g.aten.reshape.default(value, [*self.split[:-2], *ends])

    def _add(self, mask: Node) -> None:
        if self.mask is None:
            self.mask = mask
        elif self._is_boolean():
            self.mask = self.g.aten.masked_fill.Scalar(mask, self.g.aten.logical_not.default(self.mask), -math.inf)
        else:
            self.mask = self.g.aten.add.Tensor(self.mask, mask)

    def _fill(self, hidden: Node, value: float) -> None:
        if self.mask is None and value == -math.inf:
            self.mask = self.g.aten.logical_not.default(hidden)
            return
        if self.mask is None or self._is_boolean():
            zeros = self.g.aten.zeros_like.default(self.mask if self.mask is not None else hidden, dtype=self.dtype)
            boolean, self.mask = self.mask, zeros
            if boolean is not None:
                self._fill(self.g.aten.logical_not.default(boolean), -math.inf)
        lowest = value if value == -math.inf else torch.finfo(self.dtype).min / max(self.outer, 1.0)
        self.mask = self.g.aten.masked_fill.Scalar(self.mask, hidden, lowest)

    def _is_boolean(self) -> bool:
        return type_of(self.mask).dtype is torch.bool  # type: ignore[union-attr]  # a mask is a tensor


def may_lose_nan(graph: Graph, keys: int | torch.SymInt) -> bool:
    """Whether torch's CPU kernels may take a query that is NaN for a number, if they get no mask.

    They do where there are fewer keys than a vector register has lanes (measured on AVX-512: 16).
    """
    return graph.lowest(keys) < _LANES


def may_hide_a_row(graph: Graph, mask: Node, bounds: ValueBounds, formulas: IndexExpressions) -> bool:
    """Whether some query may see no key at all: where its scores are all -inf."""
    if bounds.of(mask)[0] > -math.inf and type_of(mask).dtype is not torch.bool:  # type: ignore[union-attr]
        graph.constants.observe(bounds.used)
        return False
    if every_row_sees_a_key(formulas.of(mask), type_of(mask)):
        graph.constants.observe(formulas.used)
        return False
    return True
