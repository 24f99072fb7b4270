"""Exact values as sympy expressions, and how conversions of dtypes change them.

A formula is a truth value for booleans, an integer for integers, and for floats a number, or a choice between
numbers, that is already rounded as the operator rounds. ``None`` stands for a value that cannot be said.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import sympy
import torch
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom, BooleanFunction

Expression = Any  # sympy.Expr or sympy.Boolean: sympy has no common type for the two

_LARGEST_FACTOR = 2**31  # products with an index below it do not overflow 64 bits


def number(value: bool | int | float) -> Expression | None:
    """The exact value of a number; NaN has none."""
    if not isinstance(value, float):
        return sympy.sympify(value)
    if math.isfinite(value):
        return sympy.Rational(value)
    return None if math.isnan(value) else sympy.oo if value > 0 else -sympy.oo


def is_boolean(formula: Expression) -> bool:
    """Whether it is a truth value (sympy also calls every symbol a Boolean)."""
    return isinstance(formula, Relational | BooleanFunction | BooleanAtom)


def choice(condition: Expression, yes: Expression | None, no: Expression | None) -> Expression | None:
    """The one where the condition holds, the other elsewhere."""
    if yes is None or no is None:
        return None
    if is_boolean(yes):
        return sympy.Or(sympy.And(condition, yes), sympy.And(sympy.Not(condition), no))
    return sympy.Piecewise((yes, condition), (no, True))


def by_cases(function: Callable[[Expression], Expression | None], formula: Expression) -> Expression | None:
    """``function`` of the formula, case by case where it is a choice."""
    if not isinstance(formula, sympy.Piecewise):
        return function(formula)
    *cases, last = formula.args
    result = function(last.expr)
    for case in reversed(cases):
        result = choice(case.cond, function(case.expr), result)
    return result


def combined(function: Callable[[Any, Any], Any], left: Expression, right: Expression) -> Expression | None:
    """``function`` of both, case by case where one of them is a choice."""
    if isinstance(right, sympy.Piecewise) and not isinstance(left, sympy.Piecewise):
        return by_cases(lambda case: function(left, case), right)
    if isinstance(left, sympy.Piecewise) and not isinstance(right, sympy.Piecewise):
        return by_cases(lambda case: function(case, right), left)
    return function(left, right)


def as_number(formula: Expression) -> Expression:
    """1 and 0 for truth values."""
    if is_boolean(formula):
        return sympy.Piecewise((1, formula), (0, True))
    return formula


def as_boolean(formula: Expression) -> Expression:
    """Whether a number is not zero."""
    return formula if is_boolean(formula) else by_cases(lambda case: sympy.Ne(case, 0), formula)


def converted(formula: Expression | None, dtype: torch.dtype, exact: bool = False) -> Expression | None:
    """The formula after a conversion to ``dtype``; with ``exact`` only if that changes no value."""
    if formula is None:
        return None
    if dtype is torch.bool:
        return as_boolean(formula)
    return by_cases(lambda case: _converted_case(case, dtype, exact), as_number(formula))


def _converted_case(case: Expression, dtype: torch.dtype, exact: bool) -> Expression | None:
    if not case.is_number:
        far_from_overflow = all(abs(factor) < _LARGEST_FACTOR for factor in case.atoms(sympy.Integer))
        return case if dtype is torch.int64 and case.is_integer and far_from_overflow else None
    if not dtype.is_floating_point and not torch.iinfo(dtype).min <= case <= torch.iinfo(dtype).max:
        return None
    whole = case.is_Integer and torch.iinfo(torch.int64).min <= case <= torch.iinfo(torch.int64).max
    value = torch.tensor(int(case)) if whole else torch.tensor(float(case), dtype=torch.float64)
    result = number(value.to(dtype).item())
    return result if result == case or not exact else None
