"""Multiply three matrices in the order that takes fewer operations.

before:  x @ (a @ b)      (x @ a) @ b      linear(x, b @ a, bias)              linear(linear(x, a), b, bias)
after:   (x @ a) @ b      x @ (a @ b)      linear(linear(x, a), b, bias)       linear(x, b @ a, bias)
legal:   one floating-point dtype with float32's range; two axes or more (batches broadcast), contracted axes are not
         empty; the inner product is not used elsewhere. Where an operand is infinite both results are infinite or NaN,
         but not always the same of the two; an inner product that overflows in one order may not in the other
pays:    floating-point operations: only where these are fewer for the known sizes or, with sizes that vary, never more
         for any in their ranges
source:  Cormen et al. 2009, section 15.2 (matrix-chain multiplication); linear attention: Katharopoulos et al. 2020
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product, zip_longest
from typing import Any

import sympy
import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, same_size
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass

_Ranges = Mapping[str, tuple[int, int | None]]
_Shape = tuple[int | torch.SymInt, ...]


@dataclass(frozen=True)
class ReassociateMatmuls(RewritePass):
    """Choose which of two products comes first."""

    def pattern(self, p: PatternFactory) -> Pattern:
        x, a, b, bias = p.any("x"), p.any("a"), p.any("b"), p.any("bias")
        return p.either(
            *_products(p, x, p.either(*_products(p, a, b, name="right_first"))),
            *_products(p, p.either(*_products(p, x, a, name="left_first")), b),
            p.aten.linear(x, p.either(*_products(p, b, a, name="weight_first")), bias),
            p.aten.linear(p.aten.linear(x, a, name="hidden_first"), b, bias),
        )

    def check(self, match: Match) -> Accept | Reject:
        types = [match.type(name) for name in ("x", "a", "b")]
        dtype = types[0].dtype
        if not dtype.is_floating_point or any(t.dtype != dtype for t in types):
            return Reject("the operands are {}, {} and {}: expected floats of one dtype".format(*types), match.root)
        if dtype is torch.float16:
            return Reject("another inner product may exceed the range of float16", match.root)
        linear = "bias" in match.bound
        if any(t.rank < 2 for t in types[linear:]) or any(t.rank > 2 for t in types[1:] if linear):
            return Reject("the operands are {}, {} and {}: expected matrices".format(*types), match.root)
        shapes = [t.shape for t in types]
        if linear:
            shapes = [shapes[0] if types[0].rank > 1 else (1, *shapes[0]), shapes[1][::-1], shapes[2][::-1]]
        ranges = match.graph.ranges
        if not all(_is_never_negative(_symbolic(size) - 1, ranges) for size in (shapes[1][-2], shapes[2][-2])):
            return Reject("a contracted axis may be empty", match.root)
        left, right = _operations(*shapes)
        if left is None or right is None:
            return Reject("the batches are not known to broadcast", match.root)
        before, after = (left, right) if _left_first(match) else (right, left)
        saved = sympy.expand(before - after)
        if saved == 0 or not _is_never_negative(saved, ranges):
            return Reject(f"not known to be fewer multiplications: {before} before, {after} after", match.root)
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        x, a, b = match["x"], match["a"], match["b"]
        if "bias" in match.bound:
            if _left_first(match):
                return g.aten.linear(x, g.aten.matmul(b, a), match["bias"])
            return g.aten.linear(g.aten.linear(x, a), b, match["bias"])
        if _left_first(match):
            return g.aten.matmul(x, g.aten.matmul(a, b))
        return g.aten.matmul(g.aten.matmul(x, a), b)


def _products(p: PatternFactory, left: Any, right: Any, name: str = "") -> list[Pattern]:
    return [operator(left, right, name=name) for operator in (p.aten.matmul, p.aten.mm, p.aten.bmm)]


def _left_first(match: Match) -> bool:
    return "left_first" in match.bound or "hidden_first" in match.bound


def _operations(x: _Shape, a: _Shape, b: _Shape) -> tuple[sympy.Expr | None, sympy.Expr | None]:
    """Multiplications of ``(x @ a) @ b`` and of ``x @ (a @ b)``; ``None`` where batches are not known to broadcast."""
    return _chain(x, a, b), _chain(*((*t[:-2], t[-1], t[-2]) for t in (b, a, x)))


def _chain(first: _Shape, second: _Shape, third: _Shape) -> sympy.Expr | None:
    """Multiplications of ``(first @ second) @ third``."""
    inner = _broadcast(first[:-2], second[:-2])
    outer = None if inner is None else _broadcast(inner, third[:-2])
    if inner is None or outer is None:
        return None
    rows, middle = first[-2], second[-1]
    return _volume((*inner, rows, first[-1], middle)) + _volume((*outer, rows, middle, third[-1]))


def _volume(sizes: Sequence[int | torch.SymInt]) -> sympy.Expr:
    return sympy.prod([_symbolic(size) for size in sizes])


def _symbolic(size: int | torch.SymInt) -> sympy.Expr:
    return sympy.Integer(size) if isinstance(size, int) else size.node.expr


def _broadcast(a: _Shape, b: _Shape) -> _Shape | None:
    sizes: list[int | torch.SymInt] = []
    for one, other in zip_longest(reversed(a), reversed(b), fillvalue=1):
        if isinstance(one, int) and one == 1:
            sizes.append(other)
        elif (isinstance(other, int) and other == 1) or same_size(one, other):
            sizes.append(one)
        else:
            return None
    return tuple(reversed(sizes))


def _is_never_negative(value: sympy.Expr, ranges: _Ranges) -> bool:
    """Whether a polynomial of symbolic sizes is proven to be zero or more for all of their values.

    A symbol of degree one is tried at the two ends of its range, where the extremes are; others are written as their
    lowest value and a rest that may have any size, and then no term may be negative.
    """
    symbols = sorted(value.free_symbols, key=str)
    if not value.is_polynomial(*symbols):
        return False
    choices: list[list[sympy.Expr]] = []
    for symbol in symbols:
        low, high = ranges.get(str(symbol), (0, None))
        if high is not None and sympy.degree(value, symbol) <= 1:
            choices.append([sympy.Integer(low), sympy.Integer(high)])
        else:
            choices.append([low + sympy.Dummy()])
    for corner in product(*choices):
        shifted = value.subs(list(zip(symbols, corner, strict=True)), simultaneous=True)
        if any(factor < 0 for factor in sympy.expand(shifted).as_coefficients_dict().values()):
            return False
    return True
