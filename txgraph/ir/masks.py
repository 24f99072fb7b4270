"""What an attention mask does, read from its formula: queries are along axis 1 from the right, keys along axis 0."""

from __future__ import annotations

import math

import sympy
import torch

from txgraph.ir.formulas import Expression, is_boolean
from txgraph.ir.index_expressions import axis_symbol
from txgraph.ir.node import TensorType, same_size
from txgraph.ir.windows import CAUSAL, EVERYTHING, Size, Window


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


def lowest(dtype: torch.dtype) -> float:
    """What hides a key where it is added to a score of that dtype; no number does in a boolean mask."""
    return torch.finfo(dtype).min if dtype.is_floating_point else -math.inf


def visible_keys(formula: Expression | None, dtype: torch.dtype, low: float) -> Expression | None:
    """Where a mask lets a query see a key, as a truth value; ``None`` if it does more than to hide keys.

    Args:
        dtype: of the mask: boolean (true: visible), or added to the scores.
        low: a bias that is no larger hides a key.
    """
    if formula is None or dtype is torch.bool:
        return formula
    if formula == 0:
        return sympy.true
    if isinstance(formula, sympy.Piecewise) and len(formula.args) == 2:
        (first, condition), (second, _) = formula.args
        for kept, hidden, visible in ((first, second, condition), (second, first, sympy.Not(condition))):
            if kept == 0 and hidden.is_number and float(hidden) <= low:
                return visible
    return None


def window_of_mask(
    formula: Expression | None, dtype: torch.dtype, low: float, sizes: tuple[Size, Size] | None = None
) -> Window | None:
    """The keys that a mask shows to each query, if they lie side by side, and if all it does is to hide the others.

    Args:
        dtype, low: as for :func:`visible_keys`.
        sizes: how many queries and keys there are: bounds that they do not reach are left out.
    """
    visible = visible_keys(formula, dtype, low)
    window = None if visible is None else Window.of(visible)
    return window if window is None or sizes is None else window.within(*sizes)


def kind_of_mask(
    formula: Expression | None, dtype: torch.dtype, low: float, sizes: tuple[Size, Size] | None = None
) -> str:
    """``"trivial"``: it hides nothing; ``"causal"``: it hides later keys alone; an empty text for any other.

    Args:
        dtype, low, sizes: as for :func:`window_of_mask`.
    """
    window = window_of_mask(formula, dtype, low, sizes)
    return "trivial" if window == EVERYTHING else "causal" if window == CAUSAL else ""
