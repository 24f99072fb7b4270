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


class ValueBounds:
    """Bounds of the values of one graph; unknown ones, and those that may be NaN, are (-inf, inf).

    Attributes:
        used: names of the constants whose values the bounds rely on.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[Node, _Interval] = {}
        self.used: set[str] = set()

    def of(self, value: Any) -> _Interval:
        """Bounds of a node or number."""
        if isinstance(value, bool | int | float):
            return (float(value), float(value)) if not math.isnan(value) else _UNKNOWN
        if not isinstance(value, Node):
            return _UNKNOWN
        if value not in self._known:
            self._known[value] = self._derive(value)
        return self._known[value]

    def _derive(self, node: Node) -> _Interval:
        if node.op == "get_attr":
            return self._constant(node)
        tensor_type = type_of(node)
        if node.op != "call_function" or tensor_type is None:
            return _UNKNOWN
        if tensor_type.dtype is torch.bool:
            return (0.0, 1.0)
        low, high = self._apply(node)
        if tensor_type.dtype.is_floating_point:
            # The nearest value to a sum that is barely outside is the largest number, not infinity.
            limits = torch.finfo(tensor_type.dtype)
            slack = limits.max * limits.eps / 4
            low = limits.min if limits.min - slack < low < limits.min else low
            high = limits.max if limits.max < high < limits.max + slack else high
        return (low, high)

    def _constant(self, node: Node) -> _Interval:
        tensor = self._graph.constants[str(node.target)]
        if tensor.numel() == 0 or tensor.is_complex() or bool(tensor.isnan().any()):
            return _UNKNOWN
        self.used.add(str(node.target))
        return (float(tensor.min()), float(tensor.max()))

    def _apply(self, node: Node) -> _Interval:
        if is_view(node) and node.target is not _aten.reshape.default:
            return self.of(node.args[0])
        if not isinstance(node.target, torch._ops.OpOverload):
            return _UNKNOWN
        named = arguments(node)
        match node.target:
            case _aten.reshape.default | _aten.clone.default | _aten._to_copy.default | _aten.index.Tensor:
                return self.of(named["self"])
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
            case _aten.neg.default:
                low, high = self.of(named["self"])
                return (-high, -low)
            case _aten.add.Tensor | _aten.sub.Tensor | _aten.rsub.Scalar | _aten.mul.Tensor:
                return self._arithmetic(node, named)
            case _aten.cat.default:
                intervals = [self.of(t) for t in named["tensors"]]
                return (min(i[0] for i in intervals), max(i[1] for i in intervals))
        return _UNKNOWN

    def _arithmetic(self, node: Node, named: dict[str, Any]) -> _Interval:
        (a, b), (c, d) = self.of(named["self"]), self.of(named["other"])
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
