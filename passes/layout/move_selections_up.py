"""Select tokens before they are computed, not after.

before:  select(linear(gelu(x), w, b), 1, -1)           x: [B, S, E]
after:   linear(gelu(select(x, 1, -1)), w, b)           [B, N]
legal:   the value is used by this selection only; its operator treats the positions of the axis one by one: elementwise
         (operands that broadcast along the axis stay), linear, softmax and norms along other axes, casts, eval-mode
         dropout. The axis is not the last, and the selection is no larger than the axis
pays:    the operator on all positions that nobody reads: the last layer's feed-forward where only its first token is
         returned, the vocabulary's linear where only the last is
source:  the definition of these operators: a position of the result depends on that position of the operands
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, TensorType, arguments, is_random, op_name, same_size, type_of
from txgraph.rewrite import Pass, PassContext, Rewrite, replace

_aten = torch.ops.aten
_SELECTIONS = (_aten.select.int, _aten.slice.Tensor, _aten.narrow.default, _aten.index_select.default)
_COPIES = (_aten._to_copy.default, _aten.dropout.default)
_LINEARS = (_aten.linear.default, torch.ops.txgraph.linear_activation.default)
_SOFTMAXES = (_aten.softmax.int, _aten.log_softmax.int)
_NORMS = (_aten.layer_norm.default, _aten.rms_norm.default)
_PLAIN_FORMATS = (None, torch.contiguous_format, torch.preserve_format)


@dataclass(frozen=True)
class MoveSelectionsUp(Pass):
    """select, slice, narrow and index_select go before the operators whose results they select from."""

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites: list[Rewrite] = []
        declined: dict[Node, str] = {}
        pending = [n for n in graph.calls() if n.target in _SELECTIONS]
        while pending:
            selection = heappop(pending)  # the first in the graph, so that those after it can use what is made for it
            producer = selection.args[0]
            if not selection.users or not isinstance(producer, Node):
                continue  # moved already
            reason = _why_not(selection, producer)
            if reason:
                declined[selection] = reason
                continue
            if not context.permits(self, selection):
                continue
            builder = GraphBuilder(graph, selection, like=[selection, producer], made_by=self.name)
            above, result = _moved(selection, producer, builder)
            rewrites.append(replace(self.name, {selection: result}, builder.made, [producer]))
            for each in above:
                heappush(pending, each)
        for selection, reason in declined.items():
            if selection.users:
                context.decline(self, selection, reason, selection.args[0])  # type: ignore[arg-type]  # a tensor
        return rewrites


def _why_not(selection: Node, producer: Node) -> str:
    """Why a selection cannot go before the operator that computes its value; empty if it can."""
    value, result = type_of(producer), type_of(selection)
    assert value is not None, "schema: a tensor"
    assert result is not None, "schema: a tensor"
    if producer.op != "call_function" or not isinstance(producer.target, OpOverload):
        return f"%{producer.name} is not computed by an operator"
    if len(producer.users) > 1:
        other = next(user for user in producer.users if user is not selection)
        return f"%{producer.name} is also used by %{other.name}"
    axis = _axis(selection)
    if axis == value.rank - 1:
        return "it selects along the last axis"
    if selection.target is _aten.index_select.default and not _known_no_larger(result.shape[axis], value.shape[axis]):
        return "it may select more positions than there are"
    return _why_mixed(producer, value, axis)


def _why_mixed(producer: Node, value: TensorType, axis: int) -> str:
    """Why an operator does not treat the positions of an axis one by one; empty if it does."""
    named = arguments(producer)
    if named.get("memory_format") not in _PLAIN_FORMATS:
        return f"{op_name(producer)} gives its result another layout"
    if _is_elementwise(producer):
        operands = [type_of(operand) for operand in producer.all_input_nodes]
        unknown = next((t for t in operands if t is not None and _role(t, value, axis) == "unknown"), None)
        return "" if unknown is None else f"an operand of {op_name(producer)} is {unknown}, its result {value}"
    if producer.target in _LINEARS:
        weight = type_of(named["weight"])
        return "" if weight is not None and weight.rank == 2 else f"the weight is {weight}, expected two axes"
    if producer.target in _SOFTMAXES:
        return f"{op_name(producer)} is along the same axis" if named["dim"] % value.rank == axis else ""
    if producer.target in _NORMS:
        first = value.rank - len(named["normalized_shape"])
        return f"{op_name(producer)} is along the same axis" if axis >= first else ""
    return f"{op_name(producer)} is not known to treat positions one by one"


def _is_elementwise(node: Node) -> bool:
    target = node.target
    assert isinstance(target, OpOverload), "checked before"
    tagged = torch.Tag.pointwise in target.tags and len(target._schema.returns) == 1
    return (tagged or target in _COPIES) and not is_random(node)


def _role(operand: TensorType, value: TensorType, axis: int) -> str:
    """Whether an operand of an elementwise operator has the axis, broadcasts along it, or lacks it."""
    own = axis - (value.rank - operand.rank)
    if own < 0:
        return "lacks"
    if same_size(operand.shape[own], value.shape[axis]):
        return "has"
    return "broadcasts" if isinstance(operand.shape[own], int) and operand.shape[own] == 1 else "unknown"


def _moved(selection: Node, producer: Node, g: GraphBuilder) -> tuple[list[Node], Node]:
    """The selections of the operands, and the operator on them."""
    value, axis = type_of(producer), _axis(selection)
    assert value is not None, "schema: a tensor"
    removes = selection.target is _aten.select.int
    if not _is_elementwise(producer):
        operand = producer.args[0]
        assert isinstance(operand, Node), "schema: a tensor"
        selected = _selected(selection, operand, axis, g)
        rest = list(producer.args[1:])
        if producer.target in _SOFTMAXES:
            along = arguments(producer)["dim"] % value.rank
            rest[0] = along - 1 if removes and along > axis else along
        return [selected], g.call(producer.target, selected, *rest, **producer.kwargs)  # type: ignore[arg-type]  # an operator
    replaced: dict[Node, Node] = {}
    # In topological order: what an earlier operand also feeds, as in a residual, then finds the selection of it.
    for operand in sorted(producer.all_input_nodes):
        operand_type = type_of(operand)
        role = "lacks" if operand_type is None else _role(operand_type, value, axis)
        if operand_type is not None and role == "has":
            replaced[operand] = _selected(selection, operand, axis - (value.rank - operand_type.rank), g)
        elif operand_type is not None and role == "broadcasts" and removes:
            replaced[operand] = g.aten.select.int(operand, axis - (value.rank - operand_type.rank), 0)
    args, kwargs = torch.fx.map_arg((producer.args, producer.kwargs), lambda n: replaced.get(n, n))
    return list(replaced.values()), g.call(producer.target, *args, **kwargs)  # type: ignore[arg-type]  # an operator


def _selected(selection: Node, value: Node, axis: int, g: GraphBuilder) -> Node:
    """The same selection of another value; one that stands before is used."""
    wanted = {**arguments(selection), "self": value, "dim": axis}
    for user in value.users:
        if user.target is selection.target and user < selection and {**arguments(user), "dim": _axis(user)} == wanted:
            return user
    return g.call(selection.target, value, axis, *selection.args[2:], **selection.kwargs)  # type: ignore[arg-type]  # an operator


def _axis(selection: Node) -> int:
    value = type_of(selection.args[0])
    assert value is not None, "schema: a tensor"
    axis: int = arguments(selection)["dim"] % value.rank
    return axis


def _known_no_larger(size: Any, limit: Any) -> bool:
    return same_size(size, limit) or (isinstance(size, int) and isinstance(limit, int) and size <= limit)
