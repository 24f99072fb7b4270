"""Masks as formulas: the value of a tensor written as an expression in its own indices.

A causal mask built from ``arange``, ``unsqueeze`` and ``le`` is the formula ``k <= q``; an all-ones mask is
``True``. The formula is derived from the data flow, so that it holds for every input and every size.

Axes are counted from the right: :func:`axis_symbol` ``(0)`` is the index along the last axis, so that
broadcasting needs no renaming.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import sympy
import torch
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom, BooleanFunction
from torch.fx import Node

from txgraph.ir.graph import Graph
from txgraph.ir.node import arguments, type_of

_aten = torch.ops.aten
Expression = Any  # sympy.Expr or sympy.Boolean: sympy has no common type for the two


def axis_symbol(axis_from_right: int) -> sympy.Symbol:
    """The index along an axis, counted from the right: a non-negative integer."""
    return sympy.Symbol(f"i{axis_from_right}", integer=True, nonnegative=True)


def is_causal(formula: Expression) -> bool:
    """Whether the formula is "key index <= query index", keys along the last axis."""
    if not isinstance(formula, sympy.Ge | sympy.Gt | sympy.Le | sympy.Lt):
        return False
    distance = formula.gts - formula.lts - (1 if isinstance(formula, sympy.Gt | sympy.Lt) else 0)
    return bool(sympy.expand(distance - (axis_symbol(1) - axis_symbol(0))) == 0)


class IndexExpressions:
    """Derives formulas for the values of one graph; a value outside the covered operators has none.

    Attributes:
        used: names of the constants whose values the formulas rely on.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[Node, Expression | None] = {}
        self.used: set[str] = set()

    def of(self, value: Any) -> Expression | None:
        """The formula of a node or number; ``None`` if it is not known."""
        if isinstance(value, bool | int | float):
            return sympy.sympify(value)
        if isinstance(value, torch.SymInt):
            return value.node.expr
        if not isinstance(value, Node):
            return None
        if value not in self._known:
            self._known[value] = self._derive(value)
        return self._known[value]

    def _derive(self, node: Node) -> Expression | None:
        if node.op == "get_attr":
            return self._constant(node)
        symbolic = node.meta.get("val")
        if isinstance(symbolic, torch.SymInt):
            return symbolic.node.expr
        rule = _RULES.get(node.target) if node.op == "call_function" else None
        if rule is None or type_of(node) is None:
            return None
        formula = rule(self, node, arguments(node))
        return None if formula is None else _drop_unit_axes(formula, node)

    def _constant(self, node: Node) -> Expression | None:
        """A number, an arange along the last axis, or a lower triangle, read from the values."""
        tensor = self._graph.constants[str(node.target)]
        formula: Expression | None = None
        if tensor.numel() == 0 or tensor.is_complex():
            return None
        if tensor.numel() == 1:
            formula = sympy.sympify(tensor.item())
        elif tensor.dtype is torch.bool:
            if tensor.ndim >= 2 and bool((tensor == torch.ones_like(tensor).tril()).all()):
                formula = sympy.Ge(axis_symbol(1), axis_symbol(0))
            elif bool(tensor.all()):
                formula = sympy.true
        elif not tensor.is_floating_point():
            count = torch.arange(tensor.shape[-1], dtype=tensor.dtype, device=tensor.device)
            if bool((tensor == count).all()):
                formula = axis_symbol(0)
            elif bool((tensor == tensor.flatten()[0]).all()):
                formula = sympy.sympify(tensor.flatten()[0].item())
        if formula is not None:
            self.used.add(str(node.target))
        return formula


def _rank(value: Any) -> int:
    tensor_type = type_of(value)
    return 0 if tensor_type is None else tensor_type.rank


def _drop_unit_axes(formula: Expression, node: Node) -> Expression:
    """An axis of size 1 has the one index 0."""
    tensor_type = type_of(node)
    assert tensor_type is not None, "checked by the caller"
    units = {axis_symbol(at): 0 for at, size in enumerate(reversed(tensor_type.shape)) if str(size) == "1"}
    return formula.subs(units) if units else formula


def _rename(formula: Expression, moves: dict[int, Expression]) -> Expression:
    """Replace several axis indices at once."""
    return formula.subs({axis_symbol(a): e for a, e in moves.items()}, simultaneous=True)


def _is_boolean(formula: Expression) -> bool:
    """Whether it is a truth value (sympy also calls every symbol a Boolean)."""
    return isinstance(formula, Relational | BooleanFunction | BooleanAtom)


def _as_number(formula: Expression) -> Expression:
    if _is_boolean(formula):
        return sympy.Piecewise((1, formula), (0, True))
    return formula


def _as_boolean(formula: Expression) -> Expression:
    return formula if _is_boolean(formula) else sympy.Ne(formula, 0)


_Rule = Callable[[IndexExpressions, Node, dict[str, Any]], Expression | None]


def _binary(function: Callable[[Any, Any], Any]) -> _Rule:
    def rule(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
        left, right = known.of(named["self"]), known.of(named["other"])
        if left is None or right is None or named.get("alpha", 1) != 1:
            return None
        return function(_as_number(left), _as_number(right))

    return rule


def _logical(function: Callable[..., Any]) -> _Rule:
    def rule(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
        left, right = known.of(named["self"]), known.of(named["other"])
        if left is None or right is None or type_of(node).dtype is not torch.bool:  # type: ignore[union-attr]
            return None
        return function(_as_boolean(left), _as_boolean(right))

    return rule


def _not(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    inner = known.of(named["self"])
    is_boolean = type_of(node).dtype is torch.bool  # type: ignore[union-attr]  # checked by _derive
    return None if inner is None or not is_boolean else sympy.Not(_as_boolean(inner))


def _same(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    return known.of(named["self"])


def _cast(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    inner = known.of(named["self"])
    if inner is None:
        return None
    to_boolean = type_of(node).dtype is torch.bool  # type: ignore[union-attr]  # checked by _derive
    return _as_boolean(inner) if to_boolean else _as_number(inner)


def _filled(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    name = node.target.name()  # type: ignore[union-attr]  # an operator
    value = 1 if "ones" in name else 0 if "zeros" in name else named.get("fill_value", named.get("s"))
    if not isinstance(value, bool | int | float):
        return None
    is_boolean = type_of(node).dtype is torch.bool  # type: ignore[union-attr]  # checked by _derive
    return sympy.sympify(bool(value)) if is_boolean else sympy.sympify(value)


def _arange(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    start, step = known.of(named.get("start", 0)), known.of(named.get("step", 1))
    if start is None or step is None or type_of(node).dtype.is_floating_point:  # type: ignore[union-attr]
        return None
    return start + step * axis_symbol(0)


def _where(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    condition, yes, no = known.of(named["condition"]), known.of(named["self"]), known.of(named["other"])
    if condition is None or yes is None or no is None:
        return None
    return sympy.Piecewise((_as_number(yes), _as_boolean(condition)), (_as_number(no), True))


def _unsqueeze(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    inner, rank = known.of(named["self"]), _rank(node)
    at = rank - 1 - named["dim"] % rank  # from the right, in the result
    return None if inner is None else _rename(inner, {a: axis_symbol(a + 1) for a in range(at, rank)})


def _transpose(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    inner, rank = known.of(named["self"]), _rank(node)
    a, b = (rank - 1 - named[dim] % rank for dim in ("dim0", "dim1"))
    return None if inner is None else _rename(inner, {a: axis_symbol(b), b: axis_symbol(a)})


def _slice(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    inner, rank = known.of(named["self"]), _rank(node)
    start = known.of(named["start"] or 0)
    if inner is None or start is None or not bool(start >= 0):
        return None
    axis = rank - 1 - named["dim"] % rank
    return _rename(inner, {axis: start + named["step"] * axis_symbol(axis)})


def _index(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    """Gather by integer tensors on the leading axes, all of them given."""
    inner, indices, rank = known.of(named["self"]), named["indices"], _rank(named["self"])
    if inner is None or len(indices) != rank or any(i is None for i in indices):
        return None
    formulas = [known.of(i) for i in indices]
    if any(f is None or _is_boolean(f) for f in formulas):
        return None
    return _rename(inner, {rank - 1 - at: f for at, f in enumerate(formulas)})


def _cumsum(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    """The running sum of something that does not vary along the axis."""
    inner, rank = known.of(named["self"]), _rank(node)
    axis = axis_symbol(rank - 1 - named["dim"] % rank)
    if inner is None or axis in inner.free_symbols:
        return None
    return _as_number(inner) * (axis + 1)


def _diff(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    """Differences along the last axis, where the first equals the others."""
    inner, before = known.of(named["self"]), known.of(named["prepend"])
    if inner is None or before is None or named["n"] != 1 or named["append"] is not None:
        return None
    if named["dim"] % _rank(node) != _rank(node) - 1:
        return None
    axis = axis_symbol(0)
    later = sympy.simplify(inner - inner.subs(axis, axis - 1))
    first = sympy.simplify(inner.subs(axis, 0) - before.subs(axis, 0))
    return later if later == first and axis not in later.free_symbols else None


_RULES: dict[Any, _Rule] = {
    **dict.fromkeys((_aten.add.Tensor, _aten.add.Scalar), _binary(operator.add)),
    **dict.fromkeys((_aten.sub.Tensor, _aten.sub.Scalar), _binary(operator.sub)),
    **dict.fromkeys((_aten.mul.Tensor, _aten.mul.Scalar), _binary(operator.mul)),
    **dict.fromkeys((_aten.le.Tensor, _aten.le.Scalar), _binary(sympy.Le)),
    **dict.fromkeys((_aten.lt.Tensor, _aten.lt.Scalar), _binary(sympy.Lt)),
    **dict.fromkeys((_aten.ge.Tensor, _aten.ge.Scalar), _binary(sympy.Ge)),
    **dict.fromkeys((_aten.gt.Tensor, _aten.gt.Scalar), _binary(sympy.Gt)),
    **dict.fromkeys((_aten.eq.Tensor, _aten.eq.Scalar), _binary(sympy.Eq)),
    **dict.fromkeys((_aten.ne.Tensor, _aten.ne.Scalar), _binary(sympy.Ne)),
    **dict.fromkeys((_aten.bitwise_and.Tensor, _aten.logical_and.default, _aten.__and__.Tensor), _logical(sympy.And)),
    **dict.fromkeys((_aten.bitwise_or.Tensor, _aten.logical_or.default, _aten.__or__.Tensor), _logical(sympy.Or)),
    **dict.fromkeys((_aten.bitwise_not.default, _aten.logical_not.default), _not),
    **dict.fromkeys((_aten.expand.default, _aten.clone.default), _same),
    **dict.fromkeys((_aten.arange.default, _aten.arange.start, _aten.arange.start_step), _arange),
    **dict.fromkeys(
        (
            _aten.ones.default,
            _aten.zeros.default,
            _aten.full.default,
            _aten.new_ones.default,
            _aten.new_zeros.default,
            _aten.new_full.default,
            _aten.ones_like.default,
            _aten.zeros_like.default,
            _aten.full_like.default,
            _aten.scalar_tensor.default,
        ),
        _filled,
    ),
    **dict.fromkeys((_aten.where.self, _aten.where.ScalarOther, _aten.where.ScalarSelf, _aten.where.Scalar), _where),
    _aten._to_copy.default: _cast,
    _aten.unsqueeze.default: _unsqueeze,
    _aten.transpose.int: _transpose,
    _aten.slice.Tensor: _slice,
    _aten.index.Tensor: _index,
    _aten.cumsum.default: _cumsum,
    _aten.diff.default: _diff,
}
