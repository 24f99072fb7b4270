"""Which axes of the inputs become dynamic when a second shape is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree


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
