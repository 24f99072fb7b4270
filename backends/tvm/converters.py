"""What each operator computes, as expressions of TVM: the table that says which operators are generated."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import tvm
from torch._ops import OpOverload
from torch.fx import Node
from tvm import te, tirx

from txgraph.backends.tvm import numerics
from txgraph.backends.tvm.numerics import DTYPES, HALVES, number
from txgraph.backends.tvm.sizes import compute
from txgraph.backends.tvm.values import Value, convert, reduce
from txgraph.ir import arguments

Expr = tvm.ir.Expr
_aten = torch.ops.aten


class Operands:
    """The arguments of one operator, and what its result is.

    Args:
        named: by the schema's names. values: of the tensors among them. symbols: of symbolic sizes.
        keep: makes a tensor of a value that would be computed again and again.
    """

    def __init__(
        self, node: Node, values: dict[Node, Value], symbols: dict[str, Any], keep: Callable[[Value], Value]
    ) -> None:
        self.node, self.named, self.keep = node, arguments(node), keep
        self._values, self._symbols = values, symbols
        result = node.meta["val"]
        self.dtype = computed_in(DTYPES[result.dtype])
        self.shape = tuple(self.size(each) for each in result.shape)

    def __getitem__(self, name: str) -> Any:
        return self.named[name]

    def size(self, size: Any) -> Any:
        """A size or a number of the graph as an expression."""
        size = size.meta["val"] if isinstance(size, Node) else size
        return compute(size, self._symbols) if isinstance(size, torch.SymInt) else size

    def tensor(self, name: str) -> Value:
        """An argument that is a tensor, in the dtype that is computed in."""
        value = self._values[self.named[name]]
        return value.cast(computed_in(value.dtype))

    def operand(self, what: Any, dtype: str) -> Value:
        """A tensor, a number or a size, in a dtype."""
        if isinstance(what, Node) and what in self._values:
            return self._values[what].cast(dtype)
        plain = self.size(what)
        if isinstance(plain, Expr):
            return Value((), dtype, lambda _: convert(plain, dtype))
        return Value((), dtype, lambda _: tirx.const(bool(plain) if dtype == "bool" else plain, dtype), 0)

    def pointwise(self, function: Callable[..., Expr], *operands: Value, cost: int = 1, dtype: str = "") -> Value:
        """A function of what stands at one index; if it costs more than 1 it may name its operands more than once."""

        def read(index: Sequence[Any]) -> Expr:
            given = [each.at(index) for each in operands]
            return function(*given) if cost <= 1 else _named(function, given)

        return Value(self.shape, dtype or self.dtype, read, cost + sum(each.cost for each in operands))


def computed_in(dtype: str) -> str:
    """The dtype that numbers of a dtype are computed in."""
    return "float32" if dtype in HALVES else dtype


def _named(function: Callable[..., Expr], given: Sequence[Expr]) -> Expr:
    if not given:
        return function()
    return numerics.let(given[0], lambda first: _named(functools.partial(function, first), given[1:]))


Converter = Callable[[Operands], Value]
CONVERTERS: dict[OpOverload, Converter] = {}
VIEWS = frozenset(
    (
        _aten.unsqueeze.default,
        _aten.squeeze.dim,
        _aten.expand.default,
        _aten.slice.Tensor,
        _aten.transpose.int,
        _aten.permute.default,
    )
)
"""Operators of the table that are views, too: they are generated only between others that are."""


def _converts(*targets: OpOverload) -> Callable[[Converter], Converter]:
    def add(converter: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(targets, converter))
        return converter

    return add


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


CONVERTERS.update(
    {
        _aten.neg.default: _Unary(lambda x: -x),
        _aten.abs.default: _Unary(numerics.absolute, 2),
        _aten.exp.default: _Unary(numerics.exp, 20),
        _aten.tanh.default: _Unary(numerics.tanh, 30),
        _aten.sigmoid.default: _Unary(numerics.sigmoid, 25),
        _aten.erf.default: _Unary(numerics.erf, 40),
        _aten.silu.default: _Unary(lambda x: x * numerics.sigmoid(x), 25),
        torch.ops.txgraph.quick_gelu.default: _Unary(lambda x: x * numerics.sigmoid(x * number(1.702, x)), 25),
        _aten.relu.default: _Unary(_relu, 2),
        _aten.rsqrt.default: _Unary(lambda x: number(1.0, x) / tirx.sqrt(x), 8),
        _aten.sqrt.default: _Unary(tirx.sqrt, 8),
        _aten.reciprocal.default: _Unary(lambda x: number(1.0, x) / x, 4),
        _aten.cos.default: _Unary(tirx.cos, 50),
        _aten.sin.default: _Unary(tirx.sin, 50),
        _aten.log.default: _Unary(tirx.log, 50),
        _aten.logical_not.default: lambda o: o.pointwise(tirx.Not, o.tensor("self").cast("bool")),
        _aten.clone.default: _Unary(lambda x: x, 0),
        _aten._to_copy.default: lambda o: o.tensor("self").cast(o.dtype),
    }
)


@_converts(_aten.gelu.default)
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


@_converts(_aten.add.Tensor, _aten.add.Scalar, _aten.sub.Tensor, _aten.sub.Scalar, _aten.rsub.Scalar)
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


@_converts(_aten.pow.Tensor_Scalar)
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


@_converts(_aten.where.self, _aten.where.ScalarOther, _aten.where.ScalarSelf, _aten.where.Scalar)
def _convert_where(o: Operands) -> Value:
    a, b = (o.operand(o[name], o.dtype) for name in ("self", "other"))
    return o.pointwise(tirx.Select, o.tensor("condition"), a, b)


@_converts(_aten.masked_fill.Scalar, _aten.masked_fill.Tensor)
def _convert_masked_fill(o: Operands) -> Value:
    value = o.operand(o["value"], o.dtype)
    return o.pointwise(tirx.Select, o.tensor("mask"), value, o.tensor("self"))


@_converts(_aten.clamp.default, _aten.clamp_min.default)
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


@_converts(_aten.arange.default, _aten.arange.start, _aten.arange.start_step)
def _convert_arange(o: Operands) -> Value:
    start, step = (o.operand(o.named.get(name, default), o.dtype).read(()) for name, default in (("start", 0), ("step", 1)))
    return Value(o.shape, o.dtype, lambda index: convert(index[0], o.dtype) * step + start)


# Views, and what only moves numbers.


def _moved(o: Operands, index_of: Callable[[Sequence[Any]], Sequence[Any]], name: str = "self") -> Value:
    source = o.tensor(name)
    return Value(o.shape, o.dtype, lambda index: source.read(index_of(index)), source.cost)


@_converts(_aten.unsqueeze.default)
def _convert_unsqueeze(o: Operands) -> Value:
    at = o["dim"] % len(o.shape)
    return _moved(o, lambda index: [*index[:at], *index[at + 1 :]])


@_converts(_aten.squeeze.dim)
def _convert_squeeze(o: Operands) -> Value:
    source = o.tensor("self")
    if len(source.shape) == len(o.shape):
        return source
    at = o["dim"] % len(source.shape)
    return _moved(o, lambda index: [*index[:at], 0, *index[at:]])


@_converts(_aten.expand.default)
def _convert_expand(o: Operands) -> Value:
    source = o.tensor("self")
    return Value(o.shape, o.dtype, source.at, source.cost)


@_converts(_aten.slice.Tensor)
def _convert_slice(o: Operands) -> Value:
    at = o["dim"] % len(o.shape)
    length, start, step = o.tensor("self").shape[at], o.size(o["start"] or 0), o["step"]
    first = start if not isinstance(start, int) or start >= 0 else length + start
    return _moved(o, lambda index: [*index[:at], index[at] * step + first, *index[at + 1 :]])


@_converts(_aten.transpose.int)
def _convert_transpose(o: Operands) -> Value:
    order = list(range(len(o.shape)))
    a, b = o["dim0"], o["dim1"]
    order[a], order[b] = order[b], order[a]
    return o.tensor("self").permuted(order)


@_converts(_aten.permute.default)
def _convert_permute(o: Operands) -> Value:
    return o.tensor("self").permuted([axis % len(o.shape) for axis in o["dims"]])


@_converts(_aten.cat.default)
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


# Reductions, and what is made of them.


def _sum(value: Value, axis: int) -> Value:
    return reduce(value, axis, te.sum, lambda a, b: a + b)


@_converts(_aten.sum.dim_IntList, _aten.mean.dim)
def _convert_reduction(o: Operands) -> Value:
    value = o.tensor("self").cast(o.dtype)
    rank = len(value.shape)
    axes = sorted({axis % rank for axis in o["dim"]} if o["dim"] else set(range(rank)))
    count: Any = 1
    for axis in reversed(axes):
        count = count * value.shape[axis]
        value = _sum(value, axis)
    if o.node.target is _aten.mean.dim:
        total, divisor = value, o.operand(count, o.dtype).read(()) if isinstance(count, int) else convert(count, o.dtype)
        value = Value(total.shape, o.dtype, lambda index: total.read(index) / divisor, total.cost + 4)
    if o["keepdim"]:
        return value
    kept = [axis for axis in range(rank) if axis not in axes]

    def placed(index: Sequence[Any]) -> list[Any]:
        places: list[Any] = [0] * rank
        for axis, each in zip(kept, index, strict=True):
            places[axis] = each
        return places

    whole = value
    return Value(o.shape, o.dtype, lambda index: whole.read(placed(index)), whole.cost)


@_converts(_aten.softmax.int, _aten._softmax.default, _aten._safe_softmax.default)
def _convert_softmax(o: Operands) -> Value:
    value, axis = o.tensor("self").cast(o.dtype), o["dim"]
    highest = reduce(value, axis, te.max, tirx.max)
    raised = Value(value.shape, o.dtype, lambda i: numerics.exp(value.read(i) - highest.at(i)), value.cost + 20)
    kept = o.keep(raised)
    total = _sum(kept, axis)
    if o.node.target is _aten._safe_softmax.default:  # rows that see nothing are 0
        lowest = tirx.const(-math.inf, o.dtype)
        return o.pointwise(
            lambda a, b, most: tirx.Select(tirx.EQ(most, lowest), number(0, a), a / b), kept, total, highest, cost=5
        )
    return o.pointwise(lambda a, b: a / b, kept, total, cost=4)


@_converts(_aten.layer_norm.default)
def _convert_layer_norm(o: Operands) -> Value:
    x, count = o.keep(o.tensor("input")), o["normalized_shape"][0]
    mean = _scaled(_sum(x, -1), 1 / count)
    apart = Value(x.shape, o.dtype, lambda i: x.read(i) - mean.at(i), x.cost + 2)
    spread = _inverse_root(o, _sum(_square(apart), -1), count, o["eps"])
    result = o.pointwise(lambda a, b: a * b, apart, spread)
    return _affine(o, result)


@_converts(_aten.rms_norm.default)
def _convert_rms_norm(o: Operands) -> Value:
    x, count = o.keep(o.tensor("input")), o["normalized_shape"][0]
    eps = o["eps"] if o["eps"] is not None else torch.finfo(o.node.meta["val"].dtype).eps
    return _affine(o, o.pointwise(lambda a, b: a * b, x, _inverse_root(o, _sum(_square(x), -1), count, eps)))


def _square(value: Value) -> Value:
    return Value(value.shape, value.dtype, lambda i: numerics.let(value.read(i), lambda x: x * x), value.cost + 1)


def _scaled(value: Value, factor: float) -> Value:
    return Value(value.shape, value.dtype, lambda i: value.read(i) * tirx.const(factor, value.dtype), value.cost + 1)


def _inverse_root(o: Operands, total: Value, count: int, eps: float) -> Value:
    one = tirx.const(1.0, o.dtype)

    def read(index: Sequence[Any]) -> Expr:
        return one / tirx.sqrt(total.read(index) * tirx.const(1 / count, o.dtype) + tirx.const(eps, o.dtype))

    return o.keep(Value(total.shape, o.dtype, read, 12))


def _affine(o: Operands, value: Value) -> Value:
    if o["weight"] is not None:
        value = o.pointwise(lambda a, b: a * b, value, o.tensor("weight"))
    if o.named.get("bias") is not None:
        value = o.pointwise(lambda a, b: a + b, value, o.tensor("bias"))
    return value
