"""Masks as formulas: the value of a tensor written as an expression in its own indices.

A causal mask built from ``arange``, ``unsqueeze`` and ``le`` is the formula ``k <= q``; an all-ones mask is
``True``. The formula is derived from the data flow, so that it holds for every input and every size.

Axes are counted from the right: :func:`axis_symbol` ``(0)`` is the index along the last axis, so that
broadcasting needs no renaming.

A formula is the exact value (:mod:`txgraph.ir.formulas`); where that cannot be said there is none.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import sympy
import torch
from torch.fx import Node

from txgraph.ir.formulas import (
    Expression,
    as_boolean,
    as_number,
    by_cases,
    choice,
    combined,
    converted,
    is_boolean,
    number,
)
from txgraph.ir.graph import Graph
from txgraph.ir.node import arguments, type_of

_aten = torch.ops.aten

_LARGEST_FORMULA = 200  # operations; a formula of that size is no mask that anything could recognise


def axis_symbol(axis_from_right: int) -> sympy.Symbol:
    """The index along an axis, counted from the right: a non-negative integer."""
    return sympy.Symbol(f"i{axis_from_right}", integer=True, nonnegative=True)


class IndexExpressions:
    """Derives formulas for the values of one graph; a value outside the covered operators has none.

    Args:
        given: formulas of inputs, which by themselves have none.

    Attributes:
        used: names of the constants whose values the formulas rely on.
    """

    def __init__(self, graph: Graph, given: Mapping[Node, Expression] | None = None) -> None:
        self._graph = graph
        self._known: dict[Node, Expression | None] = dict(given or {})
        self.used: set[str] = set()

    def of(self, value: Any) -> Expression | None:
        """The formula of a node or number; ``None`` if it is not known."""
        if isinstance(value, bool | int | float):
            return number(value)
        if isinstance(value, torch.SymInt):
            return value.node.expr
        if not isinstance(value, Node):
            return None
        pending = [value]
        while pending:  # no recursion: a graph may be deeper than Python's stack
            node = pending.pop()
            unknown = [n for n in node.all_input_nodes if n not in self._known] if node.target in _RULES else []
            if unknown:
                pending += [node, *unknown]
            elif node not in self._known:
                self._known[node] = self._derive(node)
        return self._known[value]

    def _derive(self, node: Node) -> Expression | None:
        symbolic = node.meta.get("val")
        if isinstance(symbolic, torch.SymInt):
            return symbolic.node.expr
        if type_of(node) is None:
            return None
        formula: Expression | None = None
        if node.op == "get_attr":
            formula = self._constant(str(node.target))
        elif node.target in _RULES:
            formula = _RULES[node.target](self, node, arguments(node))
        if formula is None or formula.has(sympy.nan) or formula.count_ops() > _LARGEST_FORMULA:
            return None
        return _drop_unit_axes(formula, node)

    def _constant(self, name: str) -> Expression | None:
        """One value, an arange along the last axis, or a triangle of one value and another elsewhere."""
        tensor = self._graph.constants[name]
        if tensor.numel() == 0 or tensor.is_complex() or self._graph.is_written(name):
            return None
        formula, first = None, tensor.flatten()[0]
        if bool((tensor == first).all()):
            formula = number(first.item())
        elif _is_integer(tensor.dtype) and bool((tensor == _count(tensor)).all()):
            formula = axis_symbol(0)
        elif tensor.ndim >= 2:
            lower = torch.ones(tensor.shape[-2:], dtype=torch.bool, device=tensor.device).tril()
            others = tensor[..., ~lower].flatten()[:1]
            if others.numel() and bool((tensor == torch.where(lower, first, others)).all()):
                causal = sympy.Ge(axis_symbol(1), axis_symbol(0))
                formula = choice(causal, number(first.item()), number(others.item()))
        if formula is not None:
            self.used.add(name)
        return formula


def _count(like: torch.Tensor) -> torch.Tensor:
    return torch.arange(like.shape[-1], device=like.device)


def _is_integer(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype is torch.bool)


def _rank(value: Any) -> int:
    tensor_type = type_of(value)
    return 0 if tensor_type is None else tensor_type.rank


def _dtype(node: Node) -> torch.dtype:
    tensor_type = type_of(node)
    assert tensor_type is not None, "checked by _derive"
    return tensor_type.dtype


def _drop_unit_axes(formula: Expression, node: Node) -> Expression:
    """An axis of size 1 has the one index 0."""
    tensor_type = type_of(node)
    assert tensor_type is not None, "checked by the caller"
    units = {axis_symbol(at): 0 for at, size in enumerate(reversed(tensor_type.shape)) if str(size) == "1"}
    return formula.subs(units) if units else formula


def _rename(formula: Expression, moves: dict[int, Expression]) -> Expression:
    """Replace several axis indices at once."""
    return formula.subs({axis_symbol(a): e for a, e in moves.items()}, simultaneous=True)


_Rule = Callable[[IndexExpressions, Node, dict[str, Any]], Expression | None]


def _operand(known: IndexExpressions, value: Any, dtype: torch.dtype, exact: bool = True) -> Expression | None:
    """The formula of an operand that the operator converts to ``dtype``."""
    formula, tensor_type = known.of(value), type_of(value)
    return formula if tensor_type is not None and tensor_type.dtype is dtype else converted(formula, dtype, exact)


def _arithmetic(function: Callable[[Any, Any], Any]) -> _Rule:
    def rule(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
        dtype = _dtype(node)
        left, right = (_operand(known, named[side], dtype) for side in ("self", "other"))
        if left is None or right is None or dtype is torch.bool or named.get("alpha", 1) != 1:
            return None
        return converted(combined(function, left, right), dtype, exact=True)

    return rule


def _comparison(relation: Callable[[Any, Any], Any]) -> _Rule:
    def rule(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
        common = torch.result_type(*map(_example, (named["self"], named["other"])))
        left, right = (_operand(known, named[side], common) for side in ("self", "other"))
        if left is None or right is None:
            return None
        return combined(relation, as_number(left), as_number(right))

    return rule


def _example(value: Any) -> Any:
    """A value of the operand's type, as far as type promotion looks at it; symbolic sizes count as integers."""
    example = value.meta.get("val") if isinstance(value, Node) else value
    return example if isinstance(example, torch.Tensor | bool | int | float) else 0


def _logical(function: Callable[..., Any]) -> _Rule:
    def rule(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
        left, right = known.of(named["self"]), known.of(named["other"])
        if left is None or right is None or _dtype(node) is not torch.bool:
            return None
        return function(as_boolean(left), as_boolean(right))

    return rule


def _not(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    inner = known.of(named["self"])
    return None if inner is None or _dtype(node) is not torch.bool else sympy.Not(as_boolean(inner))


def _quotient(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    """Rounded down, by a positive integer."""
    divided, divisor = _operand(known, named["self"], torch.int64), known.of(named["other"])
    rounds_down = named.get("rounding_mode", "floor") == "floor"
    if divided is None or divisor is None or not rounds_down or _dtype(node) is not torch.int64:
        return None
    if not getattr(divisor, "is_Integer", False) or divisor < 1:
        return None
    return converted(combined(lambda a, b: sympy.floor(a / b), divided, divisor), torch.int64, exact=True)


def _absolute(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    inner = _operand(known, named["self"], _dtype(node))
    return None if inner is None or is_boolean(inner) else converted(by_cases(abs, inner), _dtype(node), exact=True)


def _same(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    return known.of(named["self"])


def _cast(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    return _operand(known, named["self"], _dtype(node), exact=False)


def _filled(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    name = node.target.name()  # type: ignore[union-attr]  # an operator
    value = 1 if "ones" in name else 0 if "zeros" in name else named.get("fill_value", named.get("s"))
    return converted(known.of(value), _dtype(node)) if isinstance(value, bool | int | float) else None


def _arange(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    start, step = known.of(named.get("start", 0)), known.of(named.get("step", 1))
    if start is None or step is None or _dtype(node) is not torch.int64:
        return None
    return converted(start + step * axis_symbol(0), torch.int64, exact=True)


def _where(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    condition = known.of(named["condition"])
    yes, no = (_operand(known, named[side], _dtype(node), exact=False) for side in ("self", "other"))
    return None if condition is None else choice(as_boolean(condition), yes, no)


def _masked_fill(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    return _where(known, node, {"condition": named["mask"], "self": named["value"], "other": named["self"]})


def _triangle(relation: Callable[[Any, Any], Any]) -> _Rule:
    def rule(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
        inner, diagonal = known.of(named["self"]), known.of(named["diagonal"])
        if inner is None or diagonal is None:
            return None
        kept = relation(axis_symbol(0) - axis_symbol(1), diagonal)
        return choice(kept, inner, sympy.false if is_boolean(inner) else sympy.Integer(0))

    return rule


def _unsqueeze(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    inner, rank = known.of(named["self"]), _rank(node)
    at = rank - 1 - named["dim"] % rank  # from the right, in the result
    return None if inner is None else _rename(inner, {a: axis_symbol(a + 1) for a in range(at, rank)})


def _reshape(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    """A reshape that only adds or removes axes of size 1."""
    inner = known.of(named["self"])
    if inner is None:
        return None
    source, result = (_long_axes(value) for value in (named["self"], node))
    if [size for _, size in source] != [size for _, size in result]:
        return None
    return _rename(inner, {a: axis_symbol(b) for (a, _), (b, _) in zip(source, result, strict=True)})


def _long_axes(node: Node) -> list[tuple[int, str]]:
    """The axes of another size than 1, counted from the right, with their sizes."""
    tensor_type = type_of(node)
    assert tensor_type is not None, "it has a formula, or checked by _derive"
    return [(at, str(size)) for at, size in enumerate(reversed(tensor_type.shape)) if str(size) != "1"]


def _transpose(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    inner, rank = known.of(named["self"]), _rank(node)
    if inner is None or rank == 0:
        return inner
    a, b = (rank - 1 - named[dim] % rank for dim in ("dim0", "dim1"))
    return _rename(inner, {a: axis_symbol(b), b: axis_symbol(a)})


def _slice(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    inner, rank = known.of(named["self"]), _rank(node)
    start, step = known.of(named["start"] or 0), known.of(named["step"])
    if inner is None or start is None or step is None or not start.is_nonnegative:
        return None
    axis = rank - 1 - named["dim"] % rank
    return _rename(inner, {axis: start + step * axis_symbol(axis)})


def _select(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    inner, rank, index = known.of(named["self"]), _rank(named["self"]), known.of(named["index"])
    if inner is None or index is None or not index.is_nonnegative:
        return None
    at = rank - 1 - named["dim"] % rank
    return _rename(inner, {at: index, **{a: axis_symbol(a - 1) for a in range(at + 1, rank)}})


def _index(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    """Gather by integer tensors on all axes; none of them counts from the end."""
    inner, indices, rank = known.of(named["self"]), named["indices"], _rank(named["self"])
    if inner is None or len(indices) != rank or any(i is None or _dtype(i) is not torch.int64 for i in indices):
        return None
    formulas = [known.of(i) for i in indices]
    if any(f is None or not f.is_nonnegative for f in formulas):
        return None
    return _rename(inner, {rank - 1 - at: f for at, f in enumerate(formulas)})


def _cumsum(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    """The running sum of something that does not vary along the axis."""
    inner, rank = _operand(known, named["self"], _dtype(node)), _rank(node)
    axis = axis_symbol(rank - 1 - named["dim"] % max(rank, 1))
    if inner is None or rank == 0 or axis in inner.free_symbols:
        return None
    return converted(combined(operator.mul, inner, axis + 1), _dtype(node), exact=True)


def _diff(known: IndexExpressions, node: Node, named: dict[str, Any]) -> Expression | None:
    """Differences along the last axis, where the first equals the others."""
    inner, before = known.of(named["self"]), known.of(named["prepend"])
    if inner is None or before is None or named["n"] != 1 or named["append"] is not None:
        return None
    dtypes = {_dtype(node), _dtype(named["self"]), _dtype(named["prepend"])}
    if len(dtypes) > 1 or torch.bool in dtypes or named["dim"] % _rank(node) != _rank(node) - 1:
        return None
    if str(type_of(named["prepend"]).shape[-1]) != "1":  # type: ignore[union-attr]  # it has a formula
        return None
    axis = axis_symbol(0)
    later = sympy.simplify(inner - inner.subs(axis, axis - 1))
    first = sympy.simplify(inner.subs(axis, 0) - before)
    constant = later == first and axis not in later.free_symbols
    return converted(later, _dtype(node), exact=True) if constant else None


_RULES: dict[Any, _Rule] = {
    **dict.fromkeys((_aten.add.Tensor, _aten.add.Scalar), _arithmetic(operator.add)),
    **dict.fromkeys((_aten.sub.Tensor, _aten.sub.Scalar), _arithmetic(operator.sub)),
    **dict.fromkeys((_aten.mul.Tensor, _aten.mul.Scalar), _arithmetic(operator.mul)),
    _aten.rsub.Scalar: _arithmetic(lambda left, right: right - left),
    **dict.fromkeys((_aten.floor_divide.default, _aten.floor_divide.Scalar), _quotient),
    **dict.fromkeys((_aten.div.Tensor_mode, _aten.div.Scalar_mode), _quotient),
    _aten.abs.default: _absolute,
    **dict.fromkeys((_aten.le.Tensor, _aten.le.Scalar), _comparison(sympy.Le)),
    **dict.fromkeys((_aten.lt.Tensor, _aten.lt.Scalar), _comparison(sympy.Lt)),
    **dict.fromkeys((_aten.ge.Tensor, _aten.ge.Scalar), _comparison(sympy.Ge)),
    **dict.fromkeys((_aten.gt.Tensor, _aten.gt.Scalar), _comparison(sympy.Gt)),
    **dict.fromkeys((_aten.eq.Tensor, _aten.eq.Scalar), _comparison(sympy.Eq)),
    **dict.fromkeys((_aten.ne.Tensor, _aten.ne.Scalar), _comparison(sympy.Ne)),
    **dict.fromkeys((_aten.bitwise_and.Tensor, _aten.logical_and.default, _aten.__and__.Tensor), _logical(sympy.And)),
    **dict.fromkeys((_aten.bitwise_or.Tensor, _aten.logical_or.default, _aten.__or__.Tensor), _logical(sympy.Or)),
    **dict.fromkeys((_aten.bitwise_not.default, _aten.logical_not.default), _not),
    **dict.fromkeys((_aten.expand.default, _aten.clone.default, _aten.alias.default), _same),
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
    **dict.fromkeys((_aten.masked_fill.Scalar, _aten.masked_fill.Tensor), _masked_fill),
    _aten.tril.default: _triangle(sympy.Le),
    _aten.triu.default: _triangle(sympy.Ge),
    _aten._to_copy.default: _cast,
    **dict.fromkeys((_aten.reshape.default, _aten.view.default), _reshape),
    _aten.unsqueeze.default: _unsqueeze,
    _aten.transpose.int: _transpose,
    _aten.slice.Tensor: _slice,
    _aten.select.int: _select,
    _aten.index.Tensor: _index,
    _aten.cumsum.default: _cumsum,
    _aten.diff.default: _diff,
}
