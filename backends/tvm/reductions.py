"""Sums, means, softmaxes and norms, as expressions of TVM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tvm import te, tirx
from tvm.ir import Expr

from txgraph.backends.tvm import numerics
from txgraph.backends.tvm.numerics import number
from txgraph.backends.tvm.operands import Operands, converts
from txgraph.backends.tvm.values import Value, convert, reduce

_aten = torch.ops.aten


def _sum(value: Value, axis: int) -> Value:
    return reduce(value, axis, te.sum, lambda a, b: a + b)


@converts(_aten.sum.dim_IntList, _aten.mean.dim)
def _convert_reduction(o: Operands) -> Value:
    value = o.tensor("self").cast(o.dtype)
    rank = len(value.shape)
    axes = sorted({axis % rank for axis in o["dim"]} if o["dim"] else set(range(rank)))
    count: Any = 1
    for axis in reversed(axes):
        count = count * value.shape[axis]
        value = _sum(value, axis)
    if o.node.target is _aten.mean.dim:
        total, divisor = (
            value,
            o.operand(count, o.dtype).read(()) if isinstance(count, int) else convert(count, o.dtype),
        )
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


@converts(_aten.softmax.int, _aten._softmax.default, _aten._safe_softmax.default)
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


@converts(_aten.layer_norm.default)
def _convert_layer_norm(o: Operands) -> Value:
    x, count = o.keep(o.tensor("input")), o["normalized_shape"][0]
    mean = _scaled(_sum(x, -1), 1 / count)
    apart = Value(x.shape, o.dtype, lambda i: x.read(i) - mean.at(i), x.cost + 2)
    spread = _inverse_root(o, _sum(_square(apart), -1), count, o["eps"])
    result = o.pointwise(lambda a, b: a * b, apart, spread)
    return _affine(o, result)


@converts(_aten.rms_norm.default)
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
