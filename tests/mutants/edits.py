"""How faults are written down: small changes of what a function takes or gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import arguments, op_name

Wrong = Callable[..., Any]


def always(value: Any) -> Wrong:
    """Gives the same value, whatever it is asked."""
    return lambda original, *args, **kwargs: value


def after(edit: Callable[[Any], Any]) -> Wrong:
    """Changes what the original gives."""
    return lambda original, *args, **kwargs: edit(original(*args, **kwargs))


def given(node: Node, **changes: Any) -> Node:
    """The same call of an operator with other arguments, by their names."""
    named = {**arguments(node), **changes}
    schema = node.target._schema.arguments  # type: ignore[union-attr]  # an operator
    node.args = tuple(named[a.name] for a in schema if not a.kwarg_only)
    node.kwargs = {a.name: named[a.name] for a in schema if a.kwarg_only}
    return node


def with_arguments(**changes: Any) -> Wrong:
    """The node that a rewrite gives, with other arguments."""
    return after(lambda node: given(node, **changes))


def inside(operator: str, edit: Callable[[Node], object]) -> Wrong:
    """Changes the operator of that name among what the value of a rewrite is computed from, by first arguments."""

    def edited(root: Node) -> Node:
        node: Any = root
        while op_name(node) != operator:
            node = node.args[0]
        edit(node)
        return root

    return after(edited)


def numbers(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """Normal numbers, seeded, others in each tensor."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def parameters(*shapes: tuple[int, ...]) -> list[torch.nn.Parameter]:
    """Weights, seeded, others in each."""
    return [torch.nn.Parameter(tensor) for tensor in numbers(*shapes)]
