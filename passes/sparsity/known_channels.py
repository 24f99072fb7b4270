"""Which hidden channels have one known value, whatever the input: those of zero rows, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from txgraph.ir import Graph, arguments, type_of
from txgraph.ir.ops import ACTIVATIONS
from txgraph.passes.sparsity.flow import UnitFlow
from txgraph.passes.sparsity.linears import linear_of, weight_of, zero_lines
from txgraph.passes.sparsity.rules import offset_of, shape_of, split_of

_aten = torch.ops.aten
_CASTS = (_aten._to_copy.default, _aten.clone.default, _aten.dropout.default, _aten.alias.default)

Known = torch.Tensor  # float64, one value for each place; NaN: not known


def known_values(graph: Graph, flow: UnitFlow) -> Mapping[Node, Known]:
    """What is known of each value of a flow along its last axis; of other values nothing is said.

    Computed in float64 from the weights as they are. What is multiplied by zero is taken to be finite.
    """
    known: dict[Node, Known] = {}
    for node, units in flow.units.items():
        if units.axis == len(shape_of(node)) - 1:
            value = _value(graph, node, known, flow)
            if value is not None:  # what overflows in the model is not what it is in float64
                known[node] = torch.where(value.to(node.meta["val"].dtype).isfinite(), value, torch.nan)
    return known


def names_read(graph: Graph, flow: UnitFlow) -> list[str]:
    """The constants that known values are computed from."""
    read = (source for node in flow.units for source in (node, *node.all_input_nodes) if source.op == "get_attr")
    return list(dict.fromkeys(str(node.target) for node in read if graph.frozen(node) is not None))


def _value(graph: Graph, node: Node, known: Mapping[Node, Known], flow: UnitFlow) -> Known | None:
    size = int(shape_of(node)[-1])
    if node.op == "get_attr":
        held = graph.constants[str(node.target)].detach()
        return held.double().flatten().cpu() if held.numel() == size else None
    if node in flow.made:
        return _made(graph, node)
    if split_of(node) is not None:
        source, axis, first, count = offset_of(node)
        along = axis == len(shape_of(source)) - 1
        return known[source][first : first + count] if along and source in known else None
    if node.target in _CASTS:
        return known.get(node.args[0])  # type: ignore[arg-type]  # schema: a tensor
    if not isinstance(node.target, OpOverload) or torch.Tag.pointwise not in node.target.tags:
        return None
    return _pointwise(graph, node, known, size)


def _made(graph: Graph, value: Node) -> Known:
    """The result of a linear: its bias, where all of a row is zero."""
    weight, linear = weight_of(value), linear_of(value)
    assert linear is not None, "a result of a linear"
    zero, bias = zero_lines(weight.values(graph), 1), weight.bias_values(graph)
    result = torch.where(zero, 0.0 if bias is None else bias.double().cpu(), torch.tensor(torch.nan).double())
    activation = arguments(linear).get("activation")
    return ACTIVATIONS[activation](result) if activation else result


def _pointwise(graph: Graph, node: Node, known: Mapping[Node, Known], size: int) -> Known | None:
    """An elementwise operator of what is known."""

    def operand(source: Node) -> torch.Tensor:
        if source in known:
            return known[source]
        held = graph.frozen(source)
        single = held is not None and held.numel() == 1
        return held.detach().double().cpu().view(1) if single else torch.tensor([torch.nan])  # type: ignore[union-attr]

    types = [type_of(source) for source in node.all_input_nodes]
    if not all(t is not None and t.dtype.is_floating_point for t in types) or known.keys().isdisjoint(
        node.all_input_nodes
    ):
        return None
    operands: Any = {source: operand(source) for source in node.all_input_nodes}
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), operands.__getitem__)
    result = node.target(*args, **kwargs)  # type: ignore[operator]  # an operator
    if not isinstance(result, torch.Tensor) or not result.is_floating_point():
        return None
    unknown = torch.stack([each.isnan().expand(size) for each in operands.values()])
    if node.target is _aten.mul.Tensor:
        zero = torch.stack([(each == 0).expand(size) for each in operands.values()]).any(0)
        return torch.where(zero, 0.0, torch.where(unknown.any(0), torch.nan, result))
    return torch.where(unknown.any(0), torch.nan, result.expand(size))
