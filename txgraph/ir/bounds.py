"""Lowest and highest value that a tensor can hold, from the data flow (interval arithmetic)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir.aliasing import is_view
from txgraph.ir.graph import Graph
from txgraph.ir.node import arguments, type_of

_aten = torch.ops.aten
_UNKNOWN = (-math.inf, math.inf)
_Interval = tuple[float, float]

_DEEPEST = 100  # operators followed upwards; beyond it a value is unknown
_EXACT = 2**53  # integers up to it are exact as Python floats
_SELECTIONS = {  # each element of the result is one of the input's, or between two of them
    _aten.clone.default,
    _aten._to_copy.default,
    _aten._unsafe_view.default,
    _aten.index.Tensor,
    _aten.gather.default,
    _aten.index_select.default,
    _aten.repeat.default,
    _aten.upsample_nearest2d.vec,
    _aten.upsample_bilinear2d.vec,
}
_NOT_ITS_VALUES = (_aten._neg_view.default, _aten.as_strided.default)  # views with other values than their base


class ValueBounds:
    """Bounds of the values of one graph; unknown ones, and those that may be NaN, are (-inf, inf).

    Attributes:
        products: what matrix products are taken to stay below, in magnitude; nothing is known of them otherwise.
        used: names of the constants whose values the bounds rely on.
    """

    def __init__(self, graph: Graph, products: float = math.inf) -> None:
        self._graph = graph
        self.products = products
        self._known: dict[Node, _Interval] = {}
        self._depth = 0
        self.used: set[str] = set()

    def of(self, value: Any) -> _Interval:
        """Bounds of a node or number."""
        if isinstance(value, bool | int | float):
            return (float(value), float(value)) if not math.isnan(value) else _UNKNOWN
        if not isinstance(value, Node) or self._depth > _DEEPEST:
            return _UNKNOWN
        if value not in self._known:
            self._depth += 1
            self._known[value] = self._derive(value)
            self._depth -= 1
        return self._known[value]

    def _derive(self, node: Node) -> _Interval:
        if node.op == "get_attr":
            return self._constant(str(node.target))
        tensor_type = type_of(node)
        if tensor_type is None:
            return _UNKNOWN
        before = self._apply(node, tensor_type.dtype) if node.op == "call_function" else _UNKNOWN
        return _rounded(before, tensor_type.dtype)

    def _constant(self, name: str) -> _Interval:
        tensor = self._graph.constants[name]
        if self._graph.is_written(name) or tensor.numel() == 0 or tensor.is_complex() or bool(tensor.isnan().any()):
            return _UNKNOWN
        self.used.add(name)
        return (float(tensor.min()), float(tensor.max()))

    def _apply(self, node: Node, dtype: torch.dtype) -> _Interval:
        """Bounds of the result before it is rounded to ``dtype``."""
        if not isinstance(node.target, torch._ops.OpOverload) or node.target in _NOT_ITS_VALUES:
            return _UNKNOWN
        if is_view(node):
            base = type_of(node.args[0])
            return self.of(node.args[0]) if base is not None and base.dtype == dtype else _UNKNOWN
        named = arguments(node)
        match node.target:
            case target if target in _SELECTIONS:
                return self.of(node.args[0])
            case _aten.matmul.default | _aten.bmm.default | _aten.linear.default | _aten.einsum.default:
                return (-self.products, self.products)
            case _aten.clamp.default:
                low, high = self.of(named["self"])
                if (low, high) == _UNKNOWN or not all(isinstance(named[e], int | float) for e in ("min", "max")):
                    return _UNKNOWN
                return (min(max(low, named["min"]), named["max"]), min(max(high, named["min"]), named["max"]))
            case _aten.embedding.default:
                return self.of(named["weight"])
            case _aten.full.default | _aten.full_like.default | _aten.new_full.default:
                return self.of(named["fill_value"])
            case _aten.zeros.default | _aten.zeros_like.default | _aten.new_zeros.default:
                return (0.0, 0.0)
            case _aten.ones.default | _aten.ones_like.default | _aten.new_ones.default:
                return (1.0, 1.0)
            case _aten.scalar_tensor.default:
                return self.of(named["s"])
            case _aten.where.self | _aten.where.ScalarOther | _aten.where.ScalarSelf | _aten.where.Scalar:
                return _union(self.of(named["self"]), self.of(named["other"]))
            case _aten.masked_fill.Scalar | _aten.masked_fill.Tensor:
                return _union(self.of(named["self"]), self.of(named["value"]))
            case _aten.tril.default | _aten.triu.default:
                return _union(self.of(named["self"]), (0.0, 0.0))
            case _aten.neg.default:
                low, high = self.of(named["self"])
                return (-high, -low)
            case _aten.add.Tensor | _aten.sub.Tensor | _aten.rsub.Scalar | _aten.mul.Tensor:
                return self._arithmetic(node, named, dtype)
            case _aten.div.Tensor if isinstance(named["other"], int | float) and named["other"]:
                corners = [bound / named["other"] for bound in self.of(named["self"])]
                return (min(corners), max(corners))
            case _aten.cat.default:
                intervals = [self.of(t) for t in named["tensors"]]
                return (min(i[0] for i in intervals), max(i[1] for i in intervals))
        return _UNKNOWN

    def _arithmetic(self, node: Node, named: dict[str, Any], dtype: torch.dtype) -> _Interval:
        (a, b), (c, d) = (_rounded(self.of(named[side]), dtype) for side in ("self", "other"))
        if named.get("alpha", 1) != 1:
            return _UNKNOWN
        if node.target is _aten.add.Tensor:
            return _checked(a + c, b + d)
        if node.target is _aten.sub.Tensor:
            return _checked(a - d, b - c)
        if node.target is _aten.rsub.Scalar:
            return _checked(c - b, d - a)
        corners = [x * y for x in (a, b) for y in (c, d)]
        return _checked(min(corners), max(corners)) if not any(map(math.isnan, corners)) else _UNKNOWN


def _checked(low: float, high: float) -> _Interval:
    return _UNKNOWN if math.isnan(low) or math.isnan(high) else (low, high)


def _union(a: _Interval, b: _Interval) -> _Interval:
    return (min(a[0], b[0]), max(a[1], b[1]))


def _rounded(interval: _Interval, dtype: torch.dtype) -> _Interval:
    """Bounds of the values of an interval once they are held in ``dtype``."""
    low, high = interval
    if dtype is torch.bool:
        return (0.0, 1.0)
    if dtype.is_floating_point:
        return (_rounded_down(low, dtype), -_rounded_down(-high, dtype))
    if dtype.is_complex:
        return _UNKNOWN
    limits_of_integers = torch.iinfo(dtype)
    if low < max(limits_of_integers.min, -_EXACT) or high > min(limits_of_integers.max, _EXACT):
        return (float(limits_of_integers.min), float(limits_of_integers.max))  # they may wrap around
    return (float(math.floor(low)), float(math.ceil(high)))


def _rounded_down(low: float, dtype: torch.dtype) -> float:
    """A number no larger than what ``low``, or anything above it, becomes in ``dtype``."""
    limits = torch.finfo(dtype)
    if low < limits.min:  # a number barely below the lowest rounds to it, others to -inf
        return limits.min if low > limits.min * (1 + 0.99 * limits.eps / 4) else -math.inf
    if low > limits.max:
        return limits.max
    if float(torch.tensor(low, dtype=torch.float64).to(dtype)) == low:
        return low
    return max(low - abs(low) * limits.eps - limits.smallest_normal, limits.min)
