"""What an attention mask does, read from its formula: queries are along axis 1 from the right, keys along axis 0."""

from __future__ import annotations

import math

import sympy
import torch

from txgraph.ir.formulas import Expression, is_boolean
from txgraph.ir.index_expressions import axis_symbol
from txgraph.ir.node import TensorType, same_size


def is_causal(formula: Expression) -> bool:
    """Whether the formula is "key index <= query index", keys along the last axis."""
    if not isinstance(formula, sympy.Ge | sympy.Gt | sympy.Le | sympy.Lt):
        return False
    distance = formula.gts - formula.lts - (1 if isinstance(formula, sympy.Gt | sympy.Lt) else 0)
    return bool(sympy.expand(distance - (axis_symbol(1) - axis_symbol(0))) == 0)


def every_row_sees_a_key(formula: Expression | None, mask_type: TensorType | None) -> bool:
    """Whether a mask is proven to let every query see the first key, or, in a square, its own."""
    if formula is None or mask_type is None:
        return False
    own = axis_symbol(1) if mask_type.rank > 1 and same_size(*mask_type.shape[-2:]) else 0
    for key in (0, own):
        seen = formula.subs(axis_symbol(0), key)
        if seen == sympy.true or (seen.is_number and not is_boolean(seen) and float(seen) > -math.inf):
            return True
        if isinstance(seen, sympy.Piecewise) and all(e.is_number and float(e) > -math.inf for e, _ in seen.args):
            return True
    return False


def kind_of_mask(formula: Expression | None, dtype: torch.dtype, low: float) -> str:
    """``"trivial"``: it hides nothing; ``"causal"``: it hides later keys alone; an empty text for any other.

    Args:
        dtype: of the mask: boolean (true: visible), or added to the scores.
        low: a bias that is no larger hides a key.
    """
    if formula is None:
        return ""
    if dtype is torch.bool:
        return "trivial" if formula == sympy.true else "causal" if is_causal(formula) else ""
    if formula == 0:
        return "trivial"
    if isinstance(formula, sympy.Piecewise) and len(formula.args) == 2:
        (first, condition), (second, _) = formula.args
        for kept, hidden, visible in ((first, second, condition), (second, first, sympy.Not(condition))):
            if kept == 0 and hidden.is_number and float(hidden) <= low and is_causal(visible):
                return "causal"
    return ""
