"""Write arithmetic that has several spellings in one of them.

before:  x / c        x - c     x ** 2  x / sqrt(y)   1 / sqrt(y), y ** -0.5  where(keep, x, c)
after:   x * (1 / c)  x + (-c)  x * x   x * rsqrt(y)  rsqrt(y)                masked_fill(x, not keep, c)
legal:   c is a number. A quotient becomes a product only of floats and if neither c nor 1 / c leaves the normal
         range of the dtype; a difference only of floats or signed integers. One rounding more at most
pays:    no time by itself: rules then have one form to match
source:  IEEE 754, section 4.3; torch.pow's documentation of the exponents 2, 0.5 and -0.5
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, arguments, packet_of, type_of
from txgraph.rewrite import NodePass

_aten = torch.ops.aten
_Named = dict[str, Any]


@dataclass(frozen=True)
class NormalizeArithmetic(NodePass):
    """One operator for each kind of arithmetic."""

    def rewrite(self, node: Node, g: GraphBuilder) -> Node | None:
        normal_form = _NORMAL_FORMS.get(node.target)
        new = normal_form(arguments(node), g) if normal_form else None
        same = new is not None and type_of(new) == type_of(node)  # else the number took part in the type
        return new if same else None


def _quotient(named: _Named, g: GraphBuilder) -> Node | None:
    x, divisor = named["self"], named["other"]
    if not isinstance(x, Node) or not _is_float(x):
        return None
    if isinstance(divisor, int | float):
        limits = torch.finfo(type_of(x).dtype)  # type: ignore[union-attr]  # a float tensor
        tiny, huge = max(limits.smallest_normal, 1 / limits.max), min(limits.max, 1 / limits.smallest_normal)
        return g.aten.mul.Tensor(x, 1.0 / divisor) if tiny <= abs(divisor) <= huge else None
    if _is_call(divisor, _aten.sqrt.default) and len(divisor.users) == 1:
        return g.aten.mul.Tensor(x, g.aten.rsqrt.default(divisor.args[0]))
    return None


def _difference(named: _Named, g: GraphBuilder) -> Node | None:
    x, number = named["self"], named["other"]
    if not isinstance(number, int | float) or isinstance(number, bool) or named["alpha"] != 1:
        return None
    dtype = type_of(x).dtype if isinstance(x, Node) else torch.bool  # type: ignore[union-attr]  # a tensor
    return g.aten.add.Tensor(x, -number) if dtype.is_signed and dtype is not torch.bool else None


def _power(named: _Named, g: GraphBuilder) -> Node | None:
    x, exponent = named["self"], named["exponent"]
    if not _is_float(x):
        return None
    if exponent == 2:
        return g.aten.mul.Tensor(x, x)
    return {0.5: g.aten.sqrt.default, -0.5: g.aten.rsqrt.default}.get(exponent, lambda _: None)(x)


def _square(named: _Named, g: GraphBuilder) -> Node | None:
    return g.aten.mul.Tensor(named["self"], named["self"]) if _is_float(named["self"]) else None


def _reciprocal(named: _Named, g: GraphBuilder) -> Node | None:
    root = named["self"]
    if _is_call(root, _aten.sqrt.default) and len(root.users) == 1 and _is_float(root.args[0]):
        return g.aten.rsqrt.default(root.args[0])
    return None


def _choice(named: _Named, g: GraphBuilder) -> Node | None:
    keep, x, number = named["condition"], named["self"], _number(named["other"])
    if number is None or not isinstance(x, Node):
        return None
    return g.aten.masked_fill.Scalar(x, g.aten.logical_not.default(keep), number)


def _filled(named: _Named, g: GraphBuilder) -> Node | None:
    number = _number(named["value"])
    return None if number is None else g.aten.masked_fill.Scalar(named["self"], named["mask"], number)


_NORMAL_FORMS: dict[Any, Callable[[_Named, GraphBuilder], Node | None]] = {
    _aten.div.Tensor: _quotient,
    _aten.sub.Tensor: _difference,
    _aten.pow.Tensor_Scalar: _power,
    _aten.square.default: _square,
    _aten.reciprocal.default: _reciprocal,
    _aten.where.self: _choice,
    _aten.where.ScalarOther: _choice,
    _aten.masked_fill.Tensor: _filled,
}


def _number(value: Any) -> int | float | None:
    """The number that a value is known to be: a number itself, or a tensor filled with one."""
    if isinstance(value, Node) and packet_of(value) in (_aten.full, _aten.scalar_tensor, _aten.full_like):
        named = arguments(value)
        value = named.get("fill_value", named.get("s"))
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _is_call(value: Any, target: Any) -> bool:
    return isinstance(value, Node) and value.target is target


def _is_float(value: Any) -> bool:
    tensor_type = type_of(value) if isinstance(value, Node) else None
    return tensor_type is not None and tensor_type.dtype.is_floating_point
