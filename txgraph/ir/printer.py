"""Readable text of a graph, one node a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from txgraph.ir.node import op_name, type_of

if TYPE_CHECKING:
    from txgraph.ir.graph import Graph


def format_graph(graph: Graph) -> str:
    """Text such as ``%7: f32[B, S, 768] = linear(%6, encoder.layer.0.attention.self.query.weight)``.

    Values are numbered in order; a constant is written by its name where it is used.
    """
    numbers: dict[Node, str] = {}
    lines = []

    def text(value: object) -> str:
        if isinstance(value, Node):
            return str(value.target) if value.op == "get_attr" else numbers[value]
        if isinstance(value, list | tuple):
            inner = ", ".join(text(v) for v in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner})"
        if isinstance(value, torch.dtype | torch.device | torch.memory_format | torch.layout):
            return str(value).removeprefix("torch.")
        return repr(value)

    for node in graph.nodes:
        if node.op == "get_attr":
            continue
        if node.op == "output":
            lines.append(f"return {text(graph.outputs)}")
            continue
        numbers[node] = f"%{len(numbers)}"
        tensor_type = type_of(node)
        annotation = "" if tensor_type is None else f": {tensor_type.format(graph.symbols)}"
        if node.op == "placeholder":
            lines.append(f"{numbers[node]}{annotation} = input {node.target}")
            continue
        arguments = [text(a) for a in node.args] + [f"{k}={text(v)}" for k, v in node.kwargs.items()]
        lines.append(f"{numbers[node]}{annotation} = {op_name(node)}({', '.join(arguments)})")
    return "\n".join(lines)
