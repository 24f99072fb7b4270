"""What operators compute that are functions of single numbers, or only move numbers, as expressions of TVM."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node
from tvm import tirx
from tvm.ir import Expr

from txgraph.backends.tvm import numerics
from txgraph.backends.tvm.numerics import DTYPES, number
from txgraph.backends.tvm.operands import CONVERTERS, Converter, Operands, computed_in, converts
from txgraph.backends.tvm.values import Value, convert

_aten = torch.ops.aten


@dataclass(frozen=True)
class _Unary:
    function: Callable[[Expr], Expr]
    cost: int = 1

    def __call__(self, o: Operands) -> Value:
        first = o.operand(next(iter(o.named.values())), o.dtype)
        return o.pointwise(self.function, first, cost=self.cost)


def _relu(x: Expr) -> Expr:
    return tirx.Select(x < number(0, x), number(0, x), x)  # NaN stays


def _gelu(x: Expr) -> Expr:
    return x * number(0.5, x) * (number(1.0, x) + numerics.erf(x * number(math.sqrt(0.5), x)))


def _gelu_tanh(x: Expr) -> Expr:
    inner = number(math.sqrt(2 / math.pi), x) * (x + number(0.044715, x) * x * x * x)
    return x * number(0.5, x) * (number(1.0, x) + numerics.tanh(inner))


def _silu(x: Expr) -> Expr:
    return x * numerics.sigmoid(x)


def _quick_gelu(x: Expr) -> Expr:
    return x * numerics.sigmoid(x * number(1.702, x))


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "": lambda x: x,
    "relu": _relu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "silu": _silu,
    "tanh": numerics.tanh,
    "sigmoid": numerics.sigmoid,
}

CONVERTERS.update(
    {
        _aten.neg.default: _Unary(lambda x: -x),
        _aten.abs.default: _Unary(numerics.absolute, 2),
        _aten.exp.default: _Unary(numerics.exp, 20),
        _aten.tanh.default: _Unary(numerics.tanh, 30),
        _aten.sigmoid.default: _Unary(numerics.sigmoid, 25),
        _aten.erf.default: _Unary(numerics.erf, 40),
        _aten.silu.default: _Unary(_silu, 25),
        torch.ops.txgraph.quick_gelu.default: _Unary(_quick_gelu, 25),
        _aten.relu.default: _Unary(_relu, 2),
        _aten.rsqrt.default: _Unary(lambda x: number(1.0, x) / tirx.sqrt(x), 8),
        _aten.sqrt.default: _Unary(tirx.sqrt, 8),
        _aten.reciprocal.default: _Unary(lambda x: number(1.0, x) / x, 4),
        _aten.cos.default: _Unary(tirx.cos, 50),
        _aten.sin.default: _Unary(tirx.sin, 50),
        _aten.log.default: _Unary(tirx.log, 50),
        _aten.logical_not.default: lambda o: o.pointwise(tirx.Not, o.tensor("self").cast("bool")),
        _aten.clone.default: _Unary(lambda x: x, 0),
        **dict.fromkeys((_aten._to_copy.default, _aten.type_as.default), lambda o: o.tensor("self").cast(o.dtype)),
        _aten.ceil.default: _Unary(tirx.ceil),
        _aten.floor.default: _Unary(tirx.floor),
    }
)


@converts(_aten.gelu.default)
def _convert_gelu(o: Operands) -> Value:
    return o.pointwise(_gelu if o["approximate"] == "none" else _gelu_tanh, o.tensor("self"), cost=40)


@dataclass(frozen=True)
class _Binary:
    function: Callable[[Expr, Expr], Expr]
    cost: int = 1

    def __call__(self, o: Operands) -> Value:
        a, b = (o.operand(each, o.dtype) for each in list(o.named.values())[:2])
        return o.pointwise(self.function, a, b, cost=self.cost)


def _maximum(a: Expr, b: Expr) -> Expr:
    return tirx.Select(tirx.Or(a > b, tirx.isnan(a)) if "float" in numerics.dtype_of(a) else a > b, a, b)


def _minimum(a: Expr, b: Expr) -> Expr:
    return tirx.Select(tirx.Or(a < b, tirx.isnan(a)) if "float" in numerics.dtype_of(a) else a < b, a, b)


def _overloads(*packets: Any) -> list[OpOverload]:
    return [getattr(packet, overload) for packet in packets for overload in ("Tensor", "Scalar")]


def _and(a: Expr, b: Expr) -> Expr:
    return tirx.And(a, b) if numerics.dtype_of(a) == "bool" else tirx.bitwise_and(a, b)


def _or(a: Expr, b: Expr) -> Expr:
    return tirx.Or(a, b) if numerics.dtype_of(a) == "bool" else tirx.bitwise_or(a, b)


CONVERTERS.update(
    {
        _aten.mul.Tensor: _Binary(lambda a, b: _and(a, b) if numerics.dtype_of(a) == "bool" else a * b),
        _aten.mul.Scalar: _Binary(lambda a, b: a * b),
        _aten.div.Tensor: _Binary(lambda a, b: a / b, 4),
        _aten.div.Scalar: _Binary(lambda a, b: a / b, 4),
        **dict.fromkeys((_aten.maximum.default, _aten.max.other), _Binary(_maximum, 2)),
        **dict.fromkeys((_aten.minimum.default, _aten.min.other), _Binary(_minimum, 2)),
        **dict.fromkeys(_overloads(_aten.bitwise_and, _aten.__and__), _Binary(_and)),
        **dict.fromkeys(_overloads(_aten.bitwise_or, _aten.__or__), _Binary(_or)),
        _aten.logical_and.default: lambda o: _logical(o, tirx.And),
        _aten.logical_or.default: lambda o: _logical(o, tirx.Or),
        _aten.bitwise_not.default: _Unary(lambda x: tirx.Not(x) if numerics.dtype_of(x) == "bool" else ~x),
    }
)


def _logical(o: Operands, function: Callable[[Expr, Expr], Expr]) -> Value:
    return o.pointwise(function, *(o.tensor(name).cast("bool") for name in ("self", "other")))


@converts(_aten.add.Tensor, _aten.add.Scalar, _aten.sub.Tensor, _aten.sub.Scalar, _aten.rsub.Scalar)
def _convert_add(o: Operands) -> Value:
    a, b, alpha = (o.operand(o[name], o.dtype) for name in ("self", "other", "alpha"))
    if o["alpha"] != 1:
        scaled = a if o.node.target is _aten.rsub.Scalar else b
        product = Value(scaled.shape, o.dtype, lambda index: scaled.read(index) * alpha.read(()), scaled.cost + 1)
        a, b = (product, b) if scaled is a else (a, product)
    if o.node.target in (_aten.add.Tensor, _aten.add.Scalar):
        if o.dtype == "bool":
            return o.pointwise(tirx.Or, a, b)
        return o.pointwise(lambda x, y: x + y, a, b)
    a, b = (b, a) if o.node.target is _aten.rsub.Scalar else (a, b)
    return o.pointwise(lambda x, y: x - y, a, b)


def _compared(function: Callable[[Expr, Expr], Expr]) -> Converter:
    def converter(o: Operands) -> Value:
        given = [o["self"], o["other"]]
        dtype = computed_in(DTYPES[torch.result_type(*(e.meta["val"] if isinstance(e, Node) else e for e in given))])
        if dtype == "bool":
            dtype = "int32"
        return o.pointwise(function, *(o.operand(each, dtype) for each in given))

    return converter


for _name, _function in (
    *(("eq", tirx.EQ), ("ne", tirx.NE), ("lt", tirx.LT), ("le", tirx.LE), ("gt", tirx.GT), ("ge", tirx.GE)),
):
    CONVERTERS[getattr(_aten, _name).Tensor] = CONVERTERS[getattr(_aten, _name).Scalar] = _compared(_function)


@converts(_aten.pow.Tensor_Scalar)
def _convert_pow(o: Operands) -> Value:
    exponent = o["exponent"]
    base = o.operand(o["self"], o.dtype)

    def power(x: Expr) -> Expr:
        if isinstance(exponent, int | float) and exponent in (1, 2, 3, 4):
            return functools.reduce(lambda a, b: a * b, [x] * int(exponent))
        if exponent == -0.5:
            return number(1.0, x) / tirx.sqrt(x)
        return tirx.pow(x, number(exponent, x))

    return o.pointwise(power, base, cost=4)


@converts(_aten.where.self, _aten.where.ScalarOther, _aten.where.ScalarSelf, _aten.where.Scalar)
def _convert_where(o: Operands) -> Value:
    a, b = (o.operand(o[name], o.dtype) for name in ("self", "other"))
    return o.pointwise(tirx.Select, o.tensor("condition"), a, b)


@converts(_aten.masked_fill.Scalar, _aten.masked_fill.Tensor)
def _convert_masked_fill(o: Operands) -> Value:
    value = o.operand(o["value"], o.dtype)
    return o.pointwise(tirx.Select, o.tensor("mask"), value, o.tensor("self"))


@converts(_aten.clamp.default, _aten.clamp_min.default)
def _convert_clamp(o: Operands) -> Value:
    value = o.operand(o["self"], o.dtype)
    if o["min"] is not None:
        value = o.pointwise(_maximum, value, o.operand(o["min"], o.dtype), cost=2)
    if o.named.get("max") is not None:
        value = o.pointwise(_minimum, value, o.operand(o["max"], o.dtype), cost=2)
    return value


# Values made of nothing.


def _filled(name: str | int) -> Converter:
    def converter(o: Operands) -> Value:
        what = o.operand(o[name] if isinstance(name, str) else name, o.dtype)
        return Value(o.shape, o.dtype, lambda _: what.read(()), 0)

    return converter


CONVERTERS.update(
    {
        **dict.fromkeys((_aten.full.default, _aten.full_like.default, _aten.new_full.default), _filled("fill_value")),
        **dict.fromkeys((_aten.ones.default, _aten.ones_like.default, _aten.new_ones.default), _filled(1)),
        **dict.fromkeys((_aten.zeros.default, _aten.zeros_like.default, _aten.new_zeros.default), _filled(0)),
        _aten.scalar_tensor.default: _filled("s"),
    }
)


@converts(_aten.arange.default, _aten.arange.start, _aten.arange.start_step)
def _convert_arange(o: Operands) -> Value:
    start, step = (
        o.operand(o.named.get(name, default), o.dtype).read(()) for name, default in (("start", 0), ("step", 1))
    )
    return Value(o.shape, o.dtype, lambda index: convert(index[0], o.dtype) * step + start)


# Views, and what only moves numbers.


def _moved(o: Operands, index_of: Callable[[Sequence[Any]], Sequence[Any]], name: str = "self") -> Value:
    source = o.tensor(name)
    return Value(o.shape, o.dtype, lambda index: source.read(index_of(index)), source.cost)


@converts(_aten.unsqueeze.default)
def _convert_unsqueeze(o: Operands) -> Value:
    at = o["dim"] % len(o.shape)
    return _moved(o, lambda index: [*index[:at], *index[at + 1 :]])


@converts(_aten.squeeze.dim)
def _convert_squeeze(o: Operands) -> Value:
    source = o.tensor("self")
    if len(source.shape) == len(o.shape):
        return source
    at = o["dim"] % len(source.shape)
    return _moved(o, lambda index: [*index[:at], 0, *index[at:]])


@converts(_aten.expand.default)
def _convert_expand(o: Operands) -> Value:
    source = o.tensor("self")
    return Value(o.shape, o.dtype, source.at, source.cost)


@converts(_aten.slice.Tensor)
def _convert_slice(o: Operands) -> Value:
    at = o["dim"] % len(o.shape)
    length, start, step = o.tensor("self").shape[at], o.size(o["start"] or 0), o["step"]
    first = start if not isinstance(start, int) or start >= 0 else length + start
    return _moved(o, lambda index: [*index[:at], index[at] * step + first, *index[at + 1 :]])


@converts(_aten.transpose.int)
def _convert_transpose(o: Operands) -> Value:
    order = list(range(len(o.shape)))
    a, b = o["dim0"], o["dim1"]
    order[a], order[b] = order[b], order[a]
    return o.tensor("self").permuted(order)


@converts(_aten.permute.default)
def _convert_permute(o: Operands) -> Value:
    return o.tensor("self").permuted([axis % len(o.shape) for axis in o["dims"]])


@converts(_aten.cat.default)
def _convert_cat(o: Operands) -> Value:
    parts = [o.operand(each, o.dtype) for each in o["tensors"]]
    at = o["dim"] % len(o.shape)

    def read(index: Sequence[Any]) -> Expr:
        first, choices = 0, []
        for part in parts:
            choices.append((first, part.read([*index[:at], index[at] - first, *index[at + 1 :]])))
            first = first + part.shape[at]
        (_, result), *rest = choices
        for start, value in rest:
            result = tirx.if_then_else(index[at] < start, result, value)
        return result

    return Value(o.shape, o.dtype, read, 2 + sum(part.cost for part in parts))
