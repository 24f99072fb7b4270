"""How units go through operators: from an operand to the result, and from the result to an operand."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from txgraph.ir import arguments, is_random, op_name, same_size, type_of
from txgraph.passes.sparsity.units import Size, Units

_aten, _txgraph = torch.ops.aten, torch.ops.txgraph
_sdpa = _aten.scaled_dot_product_attention.default

Answer = Units | str | None  # a text says why there is none; None: the value has no units along its axes
Rule = Callable[[Node, Node, Units, bool], Answer]

PIECES = (_aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default, _aten.unbind.int)
RESHAPES = (_aten.reshape.default, _aten.view.default, _aten._unsafe_view.default)
_VIEWS = {*RESHAPES, _aten.permute.default, _aten.transpose.int, _aten.unsqueeze.default, _aten.expand.default}
_VIEWS |= {_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.select.int, _aten.slice.Tensor}
_VIEWS |= {_aten.narrow.default, _aten.clone.default, _aten.alias.default, _aten._to_copy.default}
_own = (_txgraph.softcap_attention.default, _txgraph.window_attention.default, _txgraph.ragged_attention.default)
ATTENTION = (_sdpa, *_own)


def across(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
    """The units of ``node`` if ``operand`` has ``units``, or with ``forward`` false the other way round.

    Of ``getitem`` the operand is what was split into pieces.
    """
    if split_of(node) is not None:
        return _piece(node, operand, units, forward)
    rule = _RULES.get(node.target)
    if rule is None and isinstance(node.target, OpOverload) and not is_random(node):
        tagged = torch.Tag.pointwise in node.target.tags and len(node.target._schema.returns) == 1
        rule = _aligned if tagged else None
    return f"{op_name(node)} is not known to keep units apart" if rule is None else rule(node, operand, units, forward)


def split_of(value: Node) -> Node | None:
    """The operator that a value is a piece of; ``None`` if it is no piece."""
    source = value.args[0] if value.target is operator.getitem else None
    return source if isinstance(source, Node) and source.target in PIECES else None


def shape_of(value: Node) -> tuple[Size, ...]:
    """The sizes of a tensor."""
    tensor_type = type_of(value)
    assert tensor_type is not None, "a value with units is a tensor"
    return tensor_type.shape


def viewed(value: Node) -> Node | None:
    """What a value shows in another shape, or a part of; ``None`` if it is computed, or none."""
    if not value.args:
        return None
    split = split_of(value)
    if split is not None:
        return split.args[0]  # type: ignore[return-value]  # schema: a tensor
    return value.args[0] if value.target in _VIEWS else None  # type: ignore[return-value]


def head_axis(attention: Node, operand: Node) -> int:
    """Which axis of an operand, or of the result, of an attention has the heads."""
    return len(shape_of(operand)) - (2 if attention.target is _txgraph.ragged_attention.default else 3)


def offset_of(node: Node) -> tuple[Node, int, int, int]:
    """Of a slice or a piece of a split: of which value, along which axis, from where, and how many places.

    The places are those of a fixed axis.
    """
    split = split_of(node)
    if split is not None:
        at: int = node.args[1]  # type: ignore[assignment]  # getitem: a number
        named, sizes = arguments(split), [piece.shape for piece in split.meta["val"]]
        axis = named["dim"] % len(sizes[0])
        return named["self"], axis, sum(int(shape[axis]) for shape in sizes[:at]), int(sizes[at][axis])
    named = arguments(node)
    axis = named["dim"] % len(shape_of(named["self"]))
    size, start = int(shape_of(named["self"])[axis]), int(named["start"] or 0)
    return named["self"], axis, min(max(start + size if start < 0 else start, 0), size), int(shape_of(node)[axis])


def _aligned(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
    """Broadcasting: axes are counted from the right."""
    source, result = shape_of(operand), shape_of(node)
    shift = len(result) - len(source)
    if forward:
        return units.along(units.axis + shift)
    axis = units.axis - shift
    return units.along(axis) if axis >= 0 and same_size(source[axis], result[units.axis]) else None


def _reshape(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
    shapes = shape_of(operand), shape_of(node)
    return units.reshaped(*(shapes if forward else shapes[::-1]))


def _permutation(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
    named, order = arguments(node), list(range(len(shape_of(node))))
    if "dims" in named:
        order = [axis % len(order) for axis in named["dims"]]
    else:
        a, b = named["dim0"], named["dim1"]
        order[a], order[b] = order[b], order[a]
    return units.along(order.index(units.axis) if forward else order[units.axis])


def _without_axes(node: Node, units: Units, forward: bool, rank: int, removed: set[int]) -> Answer:
    """``rank`` axes of the longer value, of which the other lacks some."""
    stay = [axis for axis in range(rank) if axis not in removed]
    if not forward:
        return units.along(stay[units.axis])
    if units.axis in removed:
        return f"{op_name(node)} is along the axis of the units"
    return units.along(stay.index(units.axis))


def _unsqueeze(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
    rank = len(shape_of(node))
    return _without_axes(node, units, not forward, rank, {arguments(node)["dim"] % rank})


def _squeeze(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
    shape = shape_of(operand)
    dims = arguments(node).get("dim", list(range(len(shape))))
    named = {axis % len(shape) for axis in ([dims] if isinstance(dims, int) else dims)}
    return _without_axes(node, units, forward, len(shape), {axis for axis in named if same_size(shape[axis], 1)})


def _select(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
    rank = len(shape_of(operand))
    return _without_axes(node, units, forward, rank, {arguments(node)["dim"] % rank})


def _slice(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
    named, shape = arguments(node), shape_of(operand)
    axis = named["dim"] % len(shape)
    if axis != units.axis:
        return units
    limits = [named.get(name) for name in ("start", "end", "length")]
    if named.get("step", 1) != 1 or any(isinstance(x, Node) for x in limits) or not isinstance(shape[axis], int):
        return f"{op_name(node)} takes places that vary, or not side by side"
    _, _, first, count = offset_of(node)
    return units.cut(first, first + count, shape[axis]) if forward else units.placed(first, shape[axis])


def _piece(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
    split = split_of(node)
    assert split is not None, "checked by across"
    if split.target is _aten.unbind.int:
        rank = len(shape_of(operand))
        return _without_axes(split, units, forward, rank, {arguments(split)["dim"] % rank})
    axis = arguments(split)["dim"] % len(shape_of(operand))
    if axis != units.axis:
        return units
    if not all(isinstance(piece.shape[axis], int) for piece in split.meta["val"]):
        return f"{op_name(split)} makes pieces that vary"
    size, (_, _, first, count) = shape_of(operand)[axis], offset_of(node)
    return units.cut(first, first + count, size) if forward else units.placed(first, size)


def _cat(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
    parts, axis = arguments(node)["tensors"], arguments(node)["dim"] % len(shape_of(node))
    if axis != units.axis:
        return units
    sizes = [shape_of(part)[axis] for part in parts]
    if parts.count(operand) != 1 or not all(isinstance(size, int) for size in sizes):
        return "cat joins the units of one value twice, or of parts that vary"
    first = sum(int(size) for size in sizes[: parts.index(operand)])
    size = shape_of(node)[axis]
    if forward:
        return units.placed(first, size)
    return units.cut(first, first + int(shape_of(operand)[axis]), size)


def _beside(mixed: Callable[[Node, dict[str, Any]], set[int]]) -> Rule:
    """Operators that keep the shape, or sizes of 1, and mix what is along some axes."""

    def rule(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
        if operand is not next(iter(arguments(node).values())):
            return None if not forward else f"{op_name(node)} reads the units as parameters"
        rank = len(shape_of(operand))
        if units.axis in {axis % rank for axis in mixed(node, arguments(node))}:
            return f"{op_name(node)} mixes the units"
        if len(shape_of(node)) != rank:
            return f"{op_name(node)} takes axes away"
        return units

    return rule


def _normalized(node: Node, named: dict[str, Any]) -> set[int]:
    return set(range(-len(named["normalized_shape"]), 0))


def _reduced(node: Node, named: dict[str, Any]) -> set[int]:
    axes = named["dim"]
    return {axes} if isinstance(axes, int) else set(axes or range(len(shape_of(named["self"]))))


def _size(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
    """A size of another axis than that of the units stays what it is."""
    axis = arguments(node)["dim"] % len(shape_of(operand))
    return f"{op_name(node)} asks for the number of units" if axis == units.axis else None


def _attention(node: Node, operand: Node, units: Units, forward: bool) -> Answer:
    """Heads stay apart; one of keys and values may serve a group of those of queries."""
    named = arguments(node)
    if operand not in (named["query"], named["key"], named["value"]):
        return f"the units are in the mask of {op_name(node)}" if forward else None
    here, there = (operand, node) if forward else (node, operand)
    if units.axis != head_axis(node, here):
        return f"{op_name(node)} mixes what is not heads"
    axis = head_axis(node, there)
    of_here, of_there = shape_of(here)[units.axis], shape_of(there)[axis]
    if not isinstance(of_here, int) or not isinstance(of_there, int) or len(units.labels) != of_here:
        return f"{op_name(node)} has heads whose number varies"
    if of_there >= of_here:
        return Units(axis, units.labels.repeat_interleave(of_there // of_here))
    groups = units.labels.view(of_there, -1)
    return Units(axis, groups[:, 0]) if bool((groups == groups[:, :1]).all()) else "units share one head of keys"


_RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (_aten._to_copy.default, _aten.dropout.default, _aten.clone.default, _aten.alias.default), _aligned
    ),
    **dict.fromkeys((_aten.expand.default, _aten.contiguous.default, _aten.masked_fill.Scalar), _aligned),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys((_aten.permute.default, _aten.transpose.int), _permutation),
    **dict.fromkeys((_aten.unsqueeze.default, _aten.stack.default), _unsqueeze),
    **dict.fromkeys((_aten.squeeze.default, _aten.squeeze.dim, _aten.squeeze.dims), _squeeze),
    **dict.fromkeys((_aten.slice.Tensor, _aten.narrow.default), _slice),
    **dict.fromkeys((_aten.layer_norm.default, _aten.rms_norm.default), _beside(_normalized)),
    **dict.fromkeys((_aten.softmax.int, _aten.log_softmax.int), _beside(lambda node, named: {named["dim"]})),
    **dict.fromkeys((_aten.mean.dim, _aten.sum.dim_IntList, _aten.linalg_vector_norm.default), _beside(_reduced)),
    **dict.fromkeys((_aten.linear.default, _txgraph.linear_activation.default), _beside(lambda *_: {-1})),
    **dict.fromkeys(ATTENTION, _attention),
    _aten.select.int: _select,
    _aten.sym_size.int: _size,
    _aten.cat.default: _cat,
}
