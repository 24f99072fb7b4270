"""Sizes of tensors, which may be symbolic, in terms of given values of their symbols."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.utils._sympy.functions import FloorDiv, Mod, PythonMod

Size = int | torch.SymInt
_OPERATORS = {sympy.Add: operator.add, sympy.Mul: operator.mul}
_BINARY = {FloorDiv: operator.floordiv, Mod: operator.mod, PythonMod: operator.mod}


def symbols_of(sizes: Sequence[Size]) -> list[str]:
    """The names of the symbols in sizes."""
    found = [symbol for size in sizes if isinstance(size, torch.SymInt) for symbol in size.node.expr.free_symbols]
    return sorted({str(symbol) for symbol in found})


def is_computable(size: Size) -> bool:
    """Whether :func:`compute` knows what the size is made of."""
    return isinstance(size, int) or _is_computable(size.node.expr)


def compute(size: Size, values: Mapping[str, Any]) -> Any:
    """A size, where ``values`` are those of its symbols: numbers, or TVM's expressions."""
    return size if isinstance(size, int) else _compute(size.node.expr, values)


def _is_computable(expression: sympy.Expr) -> bool:
    if isinstance(expression, sympy.Integer | sympy.Symbol):
        return True
    return expression.func in _OPERATORS | _BINARY and all(map(_is_computable, expression.args))


def _compute(expression: sympy.Expr, values: Mapping[str, Any]) -> Any:
    if isinstance(expression, sympy.Integer):
        return int(expression)
    if isinstance(expression, sympy.Symbol):
        return values[str(expression)]
    parts = [_compute(part, values) for part in expression.args]
    if expression.func in _BINARY:
        return _BINARY[expression.func](*parts)
    return functools.reduce(_OPERATORS[expression.func], parts)
