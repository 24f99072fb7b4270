"""What a drawing shows of a graph, as plain values.

Constants are part of the operator that uses them; ``getitem`` and arithmetic on symbolic sizes are left out:
an arrow runs from the operator that computes a tensor to the one that uses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import Graph, is_symbolic, op_name, provenance_of, type_of
from txgraph.ir.aliasing import is_view
from txgraph.ir.node import GETITEM

Path = tuple[str, ...]  # of a module: ("encoder", "layer", "0"); "0@1" is its second call

_CALL_NUMBER = re.compile(r"@(\d+)$")


@dataclass(frozen=True)
class Arrow:
    """A use of a tensor: the drawn operator that computes it, and the tensor's type."""

    source: str
    type: str


@dataclass(frozen=True)
class Constant:
    """A weight, buffer or folded value that an operator uses.

    Attributes:
        parts: the names of the weights that a joint weight is made of, else its own name.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Op:
    """One drawn node.

    Attributes:
        name: of the node in its graph. op: short name of the operator.
        path: of the module it belongs to. location, code: the user's source line.
        type: of its result. text: the whole call.
        literals: its plain arguments, with ``_`` in place of tensors.
        passes: that made or touched it.
        error: what the rewrite that made it did to the numbers, where that was measured.
    """

    name: str
    op: str
    kind: str
    path: Path
    type: str
    arrows: tuple[Arrow, ...]
    constants: tuple[Constant, ...]
    literals: tuple[str, ...]
    text: str
    location: str
    code: str
    passes: tuple[str, ...]
    is_view: bool
    error: str = ""


View = dict[str, Op]


def is_member(part: str) -> bool:
    """Whether a part of a path is an index into a module list: ``3``, or ``3@1`` for its second call."""
    return part.partition("@")[0].isdecimal()


def view_of(graph: Graph) -> View:
    """The drawn nodes of a graph by name, in topological order."""
    return {n.name: _op(graph, n) for n in graph.nodes if _is_drawn(n)}


def module_classes(graph: Graph) -> dict[Path, str]:
    """Class names of the modules that nodes of this graph belong to."""
    classes: dict[Path, str] = {}
    for node in graph.nodes:
        for _, path, kind in _stack(node):
            classes[_with_call(node, path)] = kind.rsplit(".", 1)[-1]
    return classes


def _is_drawn(node: Node) -> bool:
    return node.op != "get_attr" and node.target is not GETITEM and not is_symbolic(node)


def _op(graph: Graph, node: Node) -> Op:
    origin = provenance_of(node)
    arguments = list(_leaves((node.args, node.kwargs)))
    tensors = [a for a in arguments if isinstance(a, Node) and not is_symbolic(a)]
    return Op(
        name=node.name,
        op=str(node.target) if node.op == "placeholder" else op_name(node),
        kind=node.op,
        path=_with_call(node, origin.module),
        type=_type(graph, node),
        arrows=tuple(_arrow(graph, n) for n in tensors if n.op != "get_attr"),
        constants=tuple(_constant(graph, n) for n in tensors if n.op == "get_attr"),
        literals=tuple("_" if isinstance(a, Node) else _plain(a) for a in arguments),
        text=_call(node),
        location=origin.location,
        code=origin.code,
        passes=origin.passes,
        is_view=is_view(node),
    )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _type(graph: Graph, node: Node) -> str:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return f"{len(value)} tensors"
    tensor_type = type_of(node)
    return "" if tensor_type is None else tensor_type.format(graph.symbols)


def _arrow(graph: Graph, node: Node) -> Arrow:
    source = node
    while source.target is GETITEM and isinstance(source.args[0], Node):
        source = source.args[0]
    return Arrow(source.name, _type(graph, node))


def _constant(graph: Graph, node: Node) -> Constant:
    name = str(node.target)
    parts = tuple(name.split("_and_"))
    if not set(parts) <= graph.constants.sources.get(name, frozenset()):
        parts = (name,)
    return Constant(name, _type(graph, node), tuple(graph.constants[name].shape), parts)


def _plain(value: object) -> str:
    if isinstance(value, torch.dtype | torch.device | torch.memory_format | torch.layout):
        return str(value).removeprefix("torch.")
    return repr(value)


def _call(node: Node) -> str:
    if node.op == "placeholder":
        return f"input {node.target}"

    def text(value: Any) -> str:
        if isinstance(value, Node):
            return str(value.target) if value.op == "get_attr" else f"%{value.name}"
        if isinstance(value, list | tuple):
            return f"[{', '.join(text(v) for v in value)}]"
        return _plain(value)

    arguments = [text(a) for a in node.args] + [f"{k}={text(v)}" for k, v in node.kwargs.items()]
    return f"%{node.name} = {op_name(node)}({', '.join(arguments)})"


def _stack(node: Node) -> list[tuple[str, str, str]]:
    stack = node.meta.get("nn_module_stack") or {}
    return [
        (str(key), path, kind if isinstance(kind, str) else kind.__qualname__) for key, (path, kind) in stack.items()
    ]


def _with_call(node: Node, module: str) -> Path:
    """The path of a module; the outermost module that is called again carries the number of the call."""
    parts = module.split(".") if module else []
    for key, path, _ in _stack(node):
        call = _CALL_NUMBER.search(key)
        depth = len(path.split("."))
        if call and path and depth <= len(parts):
            parts[depth - 1] += f"@{call[1]}"
            break
    return tuple(parts)
