"""Values inside of a kernel: what is computed at an index, until something makes a tensor of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.ir import Expr

from txgraph.backends.tvm.numerics import for_gpu, number

LANES = 32  # partial results of a reduction, side by side in a vector
LANES_NAME = "lanes"
ACROSS = "across"
"""The names of blocks begin so that reduce the last axis of what they read."""


@dataclass(frozen=True)
class Value:
    """A function of indices.

    Attributes:
        shape: numbers, or expressions of symbols. dtype: in TVM's words.
        read: what stands at an index. cost: about how many instructions that takes.
    """

    shape: tuple[Any, ...]
    dtype: str
    read: Callable[[Sequence[Any]], Expr]
    cost: int = 1

    def at(self, index: Sequence[Any]) -> Expr:
        """What stands at the index of a shape that this value broadcasts to."""
        own = index[len(index) - len(self.shape) :] if self.shape else ()
        return self.read([0 if is_one(size) else at for size, at in zip(self.shape, own, strict=True)])

    def cast(self, dtype: str) -> Value:
        """The value in another dtype."""
        if dtype == self.dtype:
            return self
        return Value(self.shape, dtype, lambda index: convert(self.read(index), dtype), self.cost + 1)

    def permuted(self, order: Sequence[int]) -> Value:
        """The value with its axes in another order."""
        places = [order.index(axis) for axis in range(len(order))]
        shape = tuple(self.shape[axis] for axis in order)
        return Value(shape, self.dtype, lambda index: self.read([index[place] for place in places]), self.cost)

    def stored(self, name: str) -> tuple[Value, te.Tensor]:
        """The value read from memory, and the tensor that it is written to."""
        tensor = te.compute(self.shape, lambda *index: self.read(index), name=name)
        return of_tensor(tensor), tensor


def of_tensor(tensor: te.Tensor) -> Value:
    """What a tensor holds."""
    return Value(tuple(tensor.shape), str(tensor.dtype), lambda index: tensor(*index))


def convert(x: Expr, dtype: str) -> Expr:
    """An expression in another dtype, as torch converts."""
    return tirx.NE(x, number(0, x)) if dtype == "bool" else x.astype(dtype)


def is_one(size: Any) -> bool:
    """Whether a size is known to be 1."""
    return as_int(size) == 1


def as_int(size: Any) -> int | None:
    """A size that is a number."""
    if isinstance(size, int):
        return size
    return int(size.value) if isinstance(size, tirx.IntImm) else None


def reduce(value: Value, axis: int, combine: Callable[..., Any], merge: Callable[[Expr, Expr], Expr]) -> Value:
    """Reduce over one axis, which becomes 1.

    Args:
        combine: a reduction of ``te``. merge: the same, of two numbers.
    """
    axis %= len(value.shape)
    shape = (*value.shape[:axis], 1, *value.shape[axis + 1 :])
    extent = value.shape[axis]
    known = as_int(extent)
    is_last = axis == len(value.shape) - 1
    if for_gpu() or not is_last or (known is not None and known < 2 * LANES):
        return _over(value, axis, shape, extent, combine, ACROSS if is_last else "along")
    rows = value.shape[:axis]
    blocks = tirx.floordiv(extent, LANES) if known is None else known // LANES
    k = te.reduce_axis((0, blocks), "k")
    lanes = te.compute(
        (*rows, LANES), lambda *i: combine(value.read([*i[:-1], k * LANES + i[-1]]), axis=k), name=LANES_NAME
    )

    def joined(*row: Expr) -> Expr:
        parts = [lanes(*row, lane) for lane in range(LANES)]
        while len(parts) > 1:
            parts = [merge(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    whole = te.compute(rows, joined, name="joined")
    result = Value(shape, value.dtype, lambda index: whole(*index[:-1]))
    if known is not None and known % LANES == 0:
        return result
    rest = extent - blocks * LANES
    beyond = Value((*rows, rest), value.dtype, lambda i: value.read([*i[:-1], i[-1] + blocks * LANES]), value.cost)
    tail = _over(beyond, axis, shape, rest, combine, "rest")
    return Value(shape, value.dtype, lambda index: merge(result.read(index), tail.read(index)), 3)


def _over(value: Value, axis: int, shape: Sequence[Any], extent: Any, combine: Callable[..., Any], name: str) -> Value:
    k = te.reduce_axis((0, extent), "k")
    kept = [size for at, size in enumerate(shape) if at != axis]
    reduced = te.compute(kept, lambda *i: combine(value.read([*i[:axis], k, *i[axis:]]), axis=k), name=name)
    return Value(tuple(shape), value.dtype, lambda index: reduced(*index[:axis], *index[axis + 1 :]))
