"""The operators between which units live: linears, by themselves, with an activation, or several of one input."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import Graph, arguments, type_of
from txgraph.passes.fold.new_weights import why_not_replaced

_aten, _txgraph = torch.ops.aten, torch.ops.txgraph
_FIRST = 8  # values of a row or column that are looked at first
_SINGLE = (_aten.linear.default, _txgraph.linear_activation.default)


@dataclass(frozen=True)
class Weight:
    """A weight ``[N, K]`` of a linear, with its bias ``[N]``.

    Attributes:
        linear: the operator. at: which of its weights.
        constant: the ``get_attr`` node. transposed: whether it holds the weight as ``[K, N]``.
        bias: a ``get_attr`` node, or ``None``.
    """

    linear: Node
    at: int
    constant: Node
    transposed: bool
    bias: Node | None

    def values(self, graph: Graph) -> torch.Tensor:
        """The weight as ``[N, K]``."""
        held = graph.constants[str(self.constant.target)].detach()
        return held.t() if self.transposed else held

    def bias_values(self, graph: Graph) -> torch.Tensor | None:
        """The bias ``[N]``, if there is one."""
        return None if self.bias is None else graph.constants[str(self.bias.target)].detach()


def is_linear(node: object) -> bool:
    """Whether a node has weights; that of several linears gives a list."""
    return isinstance(node, Node) and (node.target in _SINGLE or node.target is _txgraph.linears.default)


def linear_of(value: Node) -> Node | None:
    """The linear whose result a value is: the value itself, or where it is one of several results the operator."""
    if value.target is operator.getitem and is_linear(value.args[0]):
        return value.args[0]  # type: ignore[return-value]  # checked
    return value if value.target in _SINGLE else None


def results_of(linear: Node) -> list[Node]:
    """The values that a linear gives."""
    return [linear] if linear.target in _SINGLE else list(linear.users)


def weights_of(linear: Node) -> list[Weight]:
    """All weights of a linear, as they are read; whether they are constants says :func:`why_not_cut`."""
    named = arguments(linear)
    single = linear.target in _SINGLE
    pairs = [(named["weight"], named["bias"])] if single else zip(named["weights"], named["biases"], strict=True)
    return [_weight(linear, at, *pair) for at, pair in enumerate(pairs)]


def weight_of(value: Node) -> Weight:
    """The weight that a result of a linear was computed with."""
    linear = linear_of(value)
    assert linear is not None, "a result of a linear"
    return weights_of(linear)[0 if value is linear else value.args[1]]  # type: ignore[index]  # getitem: a number


def zero_lines(values: torch.Tensor, axis: int) -> torch.Tensor:
    """Of which columns (``axis`` 0) or rows (1) all values are zero: bool, on the CPU.

    Few values of each are looked at first: of ordinary weights no more are read.
    """
    zero = ~values.narrow(axis, 0, min(_FIRST, values.shape[axis])).any(axis)
    if bool(zero.any()):
        zero[zero.clone()] = ~values.index_select(1 - axis, zero.nonzero().flatten()).any(axis)
    return zero.cpu()


def any_zero_lines(graph: Graph) -> bool:
    """Whether a constant weight of a graph has a row or a column of zeros."""
    for linear in filter(is_linear, graph.calls()):
        held = [weight.values(graph) for weight in weights_of(linear) if graph.frozen(weight.constant) is not None]
        plain = (values for values in held if values.ndim == 2 and not values.is_meta)
        if any(bool(zero_lines(values, axis).any()) for values in plain for axis in (0, 1)):
            return True
    return False


def why_not_cut(graph: Graph, linear: Node) -> str:
    """Why no rows or columns can be taken out of the weights of a linear; empty if they can."""
    for weight in weights_of(linear):
        held = weight.constant
        used = [n for n in (held, weight.bias) if n is not None]
        inside = [linear, *_transposes(held)] if weight.transposed else [linear]
        problem = why_not_replaced(graph, used, held, inside)
        if problem:
            return problem
        shape, bias = type_of(held).shape, type_of(weight.bias)  # type: ignore[union-attr]  # a constant
        if len(shape) != 2:
            return f"{held.target} has {len(shape)} axes, expected 2"
        if bias is not None and bias.shape != (shape[1 if weight.transposed else 0],):
            return f"the bias is {bias}, expected one value for each output"
        others = (user for node in _transposes(held) for user in node.users if user is not linear)
        other = next(others, None) if weight.transposed else None
        if other is not None:
            return f"{held.target} is also used by %{other.name}"
    return ""


def _weight(linear: Node, at: int, weight: Node, bias: Node | None) -> Weight:
    transposed = weight.target is _aten.transpose.int and len(weight.meta["val"].shape) == 2
    return Weight(linear, at, weight.args[0] if transposed else weight, transposed, bias)  # type: ignore[arg-type]


def _transposes(constant: Node) -> Iterator[Node]:
    return (user for user in constant.users if user.target is _aten.transpose.int)
