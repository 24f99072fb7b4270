"""Which values share memory: what a rewrite must know before it drops a copy."""

from __future__ import annotations

import operator
from typing import Any

from torch._ops import OpOverload
from torch.fx import Node


def is_view(node: Node) -> bool:
    """Whether the operator's result shares memory with its first argument."""
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, OpOverload):
        return False
    return any(r.alias_info is not None for r in node.target._schema.returns)


def base_of(value: Any) -> Any:
    """The value whose memory ``value`` is, through any chain of views."""
    while isinstance(value, Node) and value.op == "call_function" and is_view(value):
        value = value.args[0]
    return value


def owns_memory(value: Any) -> bool:
    """Whether the value is computed by the graph: neither an input nor a constant, nor a view of one."""
    base = base_of(value)
    return isinstance(base, Node) and base.op == "call_function"


def copy_is_needed(copied: Any, copy: Node) -> bool:
    """Whether outputs would get another layout, or share memory with an input, a constant or another output."""
    if not owns_memory(copied) or (is_output(copy) and base_of(copied) is not copied):
        return True
    return reaches_output(copy) and (reaches_output(base_of(copied)) or strides(copied) != strides(copy))


def strides(node: Node) -> list[str]:
    """The strides, for comparison: as text, which is exact for symbolic ones, too, and adds no guards."""
    return [str(s) for s in node.meta["val"].stride()]


def reaches_output(node: Node) -> bool:
    """Whether the node, or a view of it, is one of the graph's outputs."""
    return is_output(node) or any(is_view(user) and reaches_output(user) for user in node.users)


def is_output(node: Node) -> bool:
    """Whether the node is itself one of the graph's outputs."""
    return any(user.op == "output" for user in node.users)
