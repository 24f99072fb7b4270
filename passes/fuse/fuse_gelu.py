"""Recover GELU from its decomposed forms.

before:  x * 0.5 * (1 + erf(x / sqrt(2)))
         x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))      any order of the factors
         x * sigmoid(1.702 * x)
after:   gelu(x)                                gelu(x, approximate="tanh")                 txgraph::quick_gelu(x)
legal:   x is a float tensor; the constants are GELU's to the precision of its dtype (see ``_tolerance``); no inner
         value is used outside; not x * (1 + ...) * 0.5 in float16, which is infinite in eager from 32768 on.
         Infinite x keeps the limits of GELU: torch's CPU kernel of the erf form, oneDNN's, makes NaN of +inf
pays:    4 (erf), 8 (tanh) or 2 (sigmoid) reads and writes of x (bytes) less; a linear before it can then compute it
source:  Hendrycks & Gimpel 2016, section 2
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, type_of
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass

_CONSTANTS = {
    **{"factor": math.sqrt(1 / 2), "divisor": math.sqrt(2)},  # of the erf form
    **{"scale": math.sqrt(2 / math.pi), "cubic": 0.044715},  # by tanh
    "slope": 1.702,  # by sigmoid
}


@dataclass(frozen=True)
class FuseGelu(RewritePass):
    """One operator for the erf form, and for its approximations by tanh and by sigmoid."""

    def pattern(self, p: PatternFactory) -> Pattern:
        x, scale, cubic = p.any("x"), p.number("scale"), p.number("cubic")
        mul, add = p.aten.mul, p.aten.add
        argument = p.either(mul(x, p.number("factor")), p.aten.div(x, p.number("divisor")))
        square = p.either(mul(x, x), p.aten.pow(x, 2))
        cube = p.either(p.aten.pow(x, 3), mul(square, x))
        cubic_square = p.either(mul(cubic, square), mul(mul(cubic, x), x))
        cubic_cube = p.either(mul(cubic, cube), mul(cubic_square, x), mul(mul(cubic, x), square))
        even = add(cubic_square, 1)
        approximation = p.either(
            mul(scale, add(x, cubic_cube)),
            mul(mul(scale, x), even),
            mul(scale, mul(x, even)),
            mul(x, mul(scale, even)),
        )
        gate = add(p.either(p.aten.erf(argument), p.aten.tanh(approximation)), 1)
        return p.either(
            mul(mul(x, 0.5), gate),
            mul(x, mul(gate, 0.5)),
            mul(mul(x, gate, name="doubled"), 0.5),
            mul(x, p.aten.sigmoid(mul(x, p.number("slope")))),
        )

    def check(self, match: Match) -> Accept | Reject:
        x = type_of(match["x"])
        if x is None or not x.dtype.is_floating_point or x != type_of(match.root):
            return Reject(f"x is {x}: expected floats of the result's type", match.root)
        for name in _CONSTANTS.keys() & match.bound.keys():
            found, expected = match[name], _CONSTANTS[name]
            if not abs(found - expected) <= _tolerance(x.dtype) * expected:
                return Reject(f"the constant {found} is not {expected} to the precision of {x}", match.root)
        if "doubled" in match.bound and x.dtype == torch.float16:
            return Reject("eager doubles x before it halves it: infinite from 32768 on in float16", match["doubled"])
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        if "cubic" in match.bound:
            return g.aten.gelu(match["x"], approximate="tanh")
        if "slope" in match.bound:
            return g.txgraph.quick_gelu(match["x"])
        return g.aten.gelu(match["x"])


def _tolerance(dtype: torch.dtype) -> float:
    """Largest relative difference of a constant.

    One unit in the last place: no more than the roundings that eager makes when it multiplies x by the constant. The
    0.79788456 that people write is within it in float32, not in float64. In 16 bits that would be up to 0.8 %, which
    is another function, so there it is the five digits of a 1.41421.
    """
    return min(torch.finfo(dtype).eps, 1e-5)
