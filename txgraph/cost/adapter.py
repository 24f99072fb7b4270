"""Private names of torch, all in this file: hints of symbolic sizes, and operators run without data."""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

UNKNOWN_SIZE = 1024  # stands for a size that depends on data and so has no hint


def size_hint(size: int | torch.SymInt) -> int:
    """The size that a symbolic one had when it was captured; adds no guard."""
    if isinstance(size, int):
        return size
    if size.node.hint is not None:
        return int(size.node.hint)
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, UNKNOWN_SIZE)))


def tensors_of(node: Node) -> list[torch.Tensor]:
    """The tensors that a node makes; none for symbolic sizes and assertions."""
    return [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, torch.Tensor)]


def run_on_meta(node: Node) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The tensors that an operator reads, and those it makes of them, all without data and with hinted sizes."""
    stand_ins = {each: pytree.tree_map(_stand_in, each.meta.get("val")) for each in node.all_input_nodes}
    args, kwargs = map_arg((node.args, node.kwargs), stand_ins.__getitem__)
    args, kwargs = pytree.tree_map_only(torch.device, lambda _: torch.device("meta"), (args, kwargs))
    made = node.target(*args, **kwargs)  # type: ignore[operator]  # an operator
    return _tensors(list(stand_ins.values())), _tensors(made)


def is_composite(target: OpOverload) -> bool:
    """Whether torch defines the operator by others that it calls."""
    return bool(target._can_decompose())


def has_amx() -> bool:
    """Whether this CPU has AMX, whose tiles multiply bfloat16 and int8 matrices."""
    return bool(torch.cpu._is_amx_tile_supported())


def _stand_in(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        sizes, strides = map(size_hint, value.shape), map(size_hint, value.stride())
        return torch.empty_strided(tuple(sizes), tuple(strides), dtype=value.dtype, device="meta")
    return size_hint(value) if isinstance(value, torch.SymInt) else value


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]
