"""The arguments of one operator inside of a kernel, and the table of those that are generated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node
from tvm import tirx
from tvm.ir import Expr

from txgraph.backends.tvm import numerics
from txgraph.backends.tvm.numerics import DTYPES, HALVES
from txgraph.backends.tvm.sizes import compute
from txgraph.backends.tvm.values import Value, convert
from txgraph.ir import arguments


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


def converts(*targets: OpOverload) -> Callable[[Converter], Converter]:
    """Add what is defined below to the table, for these operators."""

    def add(converter: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(targets, converter))
        return converter

    return add
