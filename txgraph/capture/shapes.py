"""Which axes of the inputs become dynamic when a second shape is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

from txgraph.capture.calls import CallSignature, FlatCall

Seen = Sequence[tuple[tuple[Any, ...], Sequence[torch.Size]]]  # structure and shapes of earlier calls


def dynamic_axes(tensors: Sequence[torch.Tensor], seen: Sequence[Sequence[torch.Size]]) -> list[frozenset[int]]:
    """Axes of each input to capture as dynamic, given the shapes that earlier calls had.

    The axes that differ from any earlier call, and with them batch and sequence: axes 0 and 1 of
    integer and boolean inputs (token ids, masks), axis 0 of the others. Sizes 0 and 1 stay static, as
    in torch.compile, because operators treat them specially.
    """
    chosen = []
    for at, tensor in enumerate(tensors):
        changed = {axis for shapes in seen for axis in range(tensor.ndim) if shapes[at][axis] != tensor.shape[axis]}
        usual = {0} if tensor.is_floating_point() else {0, 1}
        chosen.append(frozenset(axis for axis in changed | usual if axis < tensor.ndim and tensor.shape[axis] > 1))
    return chosen


def export_shapes(
    args: Sequence[Any], kwargs: Mapping[str, Any], axes: Sequence[frozenset[int]]
) -> tuple[list[Any], dict[str, Any]]:
    """What torch.export wants to hear of each argument, from the axes of each tensor leaf (positional ones first)."""
    remaining = list(axes)

    def spec(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return dict.fromkeys(remaining.pop(0), Dim.AUTO) or None
        node = pytree.SUPPORTED_NODES.get(type(leaf))  # torch.export wants other containers taken apart
        return None if node is None else [specs(part) for part in node.flatten_fn(leaf)[0]]

    def specs(value: Any) -> Any:
        return pytree.tree_map(spec, value, is_leaf=lambda v: pytree._get_node_type(v) not in pytree.BUILTIN_TYPES)

    positional = [specs(value) for value in args]
    named = {name: specs(value) for name, value in kwargs.items()}
    return positional, named


def next_shapes(
    signature: CallSignature, args: tuple[Any, ...], kwargs: Mapping[str, Any], call: FlatCall, earlier: Seen
) -> Any:
    """Static at the first shape; at the second, the axes that differ, batch and sequence are dynamic.

    Args:
        args, kwargs: the call in its normal form. call: the same in flat form.
    """
    seen = [
        shapes
        for structure, shapes in earlier
        if structure == call.structure and all(len(s) == t.ndim for s, t in zip(shapes, call.tensors, strict=True))
    ]
    if not seen or all(shapes == [t.shape for t in call.tensors] for shapes in seen):
        return None
    extra = signature.without_parameter(kwargs)
    if any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(extra)):
        return None  # torch.export takes no shapes of tensors in **kwargs
    named = {name: value for name, value in kwargs.items() if name not in extra}
    return signature.arrange(*export_shapes(args, named, dynamic_axes(call.tensors, seen)))


def shapes_by_name(signature: CallSignature, shapes: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The user's ``dynamic_shapes`` for the normal form of the call: by name.

    Raises:
        ValueError: it names what is not among the example inputs.
    """
    if shapes is None or not kwargs:
        return shapes
    named = shapes
    if isinstance(shapes, tuple | list):
        named = dict(zip(signature.names(len(args)), shapes, strict=False))
    unknown = sorted(set(named) - set(kwargs))
    if any(named[name] is not None for name in unknown):
        raise ValueError(f"dynamic_shapes names {unknown}, but the example inputs are {sorted(kwargs)}")
    extra = signature.without_parameter(kwargs)
    return {name: named.get(name) for name in kwargs if name not in extra}
